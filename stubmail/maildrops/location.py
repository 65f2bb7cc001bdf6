"""What ``maildrop`` in the users file means: a kind and a place, whether mail can go there, and the way to it."""

import getpass
import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stubmail.errors import Exit
from stubmail.maildrops.maildir import Maildir
from stubmail.maildrops.pipe import Pipe
from stubmail.mbox import Delivery, Mbox
from stubmail.mbox.file import Committed
from stubmail.settings import ConfigError
from stubmail.users import User

MBOX, MAILDIR, PIPE = "mbox", "maildir", "pipe"
SPOOL = Path("/var/spool/mail")


class Maildrop(Protocol):
    """Where messages go. Both methods raise TemporaryError or OSError, and are otherwise those of stubmail.mbox.Mbox.

    Messages' contents are octets. ``deliver`` may return messages that the maildrop refuses for good, by id, each with
    a sentence that says why.
    """

    def deliver(self, messages: Sequence[Delivery], committed: Committed) -> Mapping[str, str] | None: ...

    def recover(self, committed: Committed) -> None: ...


@dataclass(frozen=True, slots=True)
class Location:
    """What the users file says: a kind and, unless that is PIPE, a path; or else a command and its arguments."""

    kind: str
    path: Path = Path()
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.command) if self.command else str(self.path)

    def open(self, directory: Path, owner: str, recipient: str, lock_seconds: float, pipe_seconds: float) -> Maildrop:
        """Return the maildrop for one account; nothing is touched yet.

        ``directory`` is the account's state directory, ``owner`` what tells its deliveries from others' into the same
        place; the seconds bound the wait for a locked mbox, and each run of a program.
        """
        if self.kind == PIPE:
            return Pipe(self.command, recipient, directory, pipe_seconds)
        if self.kind == MAILDIR:
            name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]  # a journal is about one Maildir only
            return Maildir(self.path, directory / f"maildir-{name}.json", owner)
        return Mbox(self.path, lock_seconds, owner=owner)

    def check(self) -> None:
        """Raise Exit unless mail can be delivered there, as far as a look can tell."""
        if self.kind == PIPE:
            if not os.access(self.command[0], os.X_OK):
                raise Exit(os.EX_NOPERM, f"{self.command[0]} is missing or cannot be executed")
        elif self.kind == MAILDIR:
            parts = [self.path / name for name in ("tmp", "new", "cur")] if self.path.exists() else [self.path.parent]
            for part in parts:
                _check_directory(part)
        else:
            if self.path.exists() and not self.path.is_file():
                raise ConfigError(f"{self.path} is not a file")
            _check_directory(self.path.parent)  # for the dotlock and the journal beside it
            if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
                raise Exit(os.EX_NOPERM, f"{self.path} cannot be read and written")


def parse_maildrop(user: User) -> Location:
    """Return where a user's mail goes; by default where a mail system of old puts it. Raises ConfigError."""
    if not user.maildrop:
        return Location(MBOX, SPOOL / _system_user())
    kind, _, place = user.maildrop.partition(":")
    if kind == PIPE:
        return Location(PIPE, command=_command(user, place))
    if kind not in (MBOX, MAILDIR) or not Path(place).is_absolute():
        known = "mbox: or maildir: and an absolute path, or pipe: and a command"
        raise ConfigError(f"user {user.name}: the maildrop must be {known}, not {user.maildrop!r}")
    return Location(kind, Path(place))


def _command(user: User, text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"user {user.name}: the command of the maildrop: {error}") from error
    if not words or not Path(words[0]).is_absolute():
        raise ConfigError(f"user {user.name}: the command of the maildrop must begin with an absolute path")
    return tuple(words)


def _system_user() -> str:
    try:
        name = getpass.getuser()  # $LOGNAME, as login(1) sets it
    except (KeyError, OSError) as error:
        raise ConfigError("there is no LOGNAME: say with maildrop = in the users file where mail goes") from error
    if name in ("", ".", "..") or "/" in name:
        raise ConfigError(f"{name!r} is no user's name: say with maildrop = in the users file where mail goes")
    return name


def _check_directory(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise Exit(os.EX_NOPERM, f"the directory {path} is missing or cannot be written")
