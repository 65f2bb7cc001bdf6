"""Users of the machine: who may log in, and where their mail is."""

import grp
import os
import pwd
import re
import stat
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from stubmail.address import AddressError, parse_domain
from stubmail.errors import PermanentError
from stubmail.settings import ConfigError

_NAME = re.compile(rb"[\x21-\x2e\x30-\x7e]{1,64}")  # printable ASCII but for space and slash
_TEMPLATE = re.compile(r"(mbox|maildir):(/.*%u.*|~/.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def unix_name(login: bytes, domains: Set[str]) -> bytes:
    """Return the name that a login stands for: ``alice`` for ``alice@alpha.example``, if that domain is one of these.

    Any other login is a name as it came, in any octets. Names are told apart by case, as Unix does, domains are not;
    ``domains`` are in the form of parse_domain.
    """
    name, _, domain = login.rpartition(b"@")
    try:
        served = parse_domain(domain.decode()) in domains
    except (UnicodeDecodeError, AddressError):
        served = False
    return name if name and served else login


def find(name: bytes, least_uid: int) -> Person | None:
    """Return the user with this name, unless it is root or another whose uid is under ``least_uid``."""
    if not _NAME.fullmatch(name) or name in (b".", b".."):
        return None
    try:
        entry = pwd.getpwnam(name.decode("ascii"))
    except KeyError:
        return None
    if entry.pw_uid < max(1, least_uid) or entry.pw_gid < 1:
        return None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Person(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups), entry.pw_dir)


def login_user(name: str) -> tuple[int, int]:
    """Return uid and gid of the user that serves strangers. Raises ConfigError unless it is one without rights."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"[pop3d] login_user: there is no user {name!r}") from None
    if entry.pw_uid < 1 or entry.pw_gid < 1:
        raise ConfigError(f"[pop3d] login_user: {name} is root, or in its group")
    return entry.pw_uid, entry.pw_gid


def group(name: str) -> int:
    """Return the gid of the group that may write where mailboxes are. Raises ConfigError."""
    try:
        gid = grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"[pop3d] mail_group: there is no group {name!r}") from None
    if gid < 1:
        raise ConfigError("[pop3d] mail_group must not be root's")
    return gid


def check_template(template: str) -> None:
    """Raise ConfigError unless this says, for every user another, where the maildrop is."""
    if not _TEMPLATE.fullmatch(template):
        raise ConfigError(
            "[pop3d] system_maildrop must be mbox:/PATH/%u, maildir:/PATH/%u, mbox:~/PATH or maildir:~/PATH"
        )


def at_home(template: str) -> bool:
    """Tell whether maildrops are in their users' homes: then nobody needs to be in the group of mail to get there."""
    return template.partition(":")[2].startswith("~/")


def location(template: str, person: Person) -> str:
    """Return where a user's maildrop is, as the users file has it: ``mbox:PATH`` or ``maildir:PATH``."""
    kind, _, path = template.partition(":")
    if path.startswith("~/"):
        path = f"{person.home}/{path[2:]}"
    return f"{kind}:{path.replace('%u', person.name)}"


def check_own(place: str, person: Person) -> None:
    """Raise PermanentError when what is there is not the user's own, or a symbolic link.

    Who is in the group of mail may open the mailboxes of others: a link to one would make it this user's. Nobody else
    may put one in its place later: not in a sticky directory, or one where only that group can write.
    """
    kind, _, path = place.partition(":")
    wanted = stat.S_IFREG if kind == "mbox" else stat.S_IFDIR
    inside = () if kind == "mbox" else ("new", "cur", "tmp")
    for one in (Path(path), *(Path(path, name) for name in inside)):
        try:
            status = one.lstat()
        except FileNotFoundError:
            continue
        if stat.S_IFMT(status.st_mode) != wanted:
            raise PermanentError("5.3.5", f"{one} is a link, or no {'file' if kind == 'mbox' else 'directory'}")
        if status.st_uid != person.uid:
            raise PermanentError("5.3.5", f"{one} belongs to another user")
