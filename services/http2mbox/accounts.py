"""The accounts that a process pulls for, each with its lock; opened anew when the users file or a remedy says so."""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.http2mbox.account import Account, AccountLock, open_account
from services.http2mbox.settings import Http2mbox
from services.http2mbox.state import Standing
from stubmail.address import Address
from stubmail.cookies import account_directory
from stubmail.errors import Exit, StubmailError
from stubmail.log import event
from stubmail.settings import ConfigError
from stubmail.users import User, load_users

_log = logging.getLogger("http2mbox")


@dataclass(frozen=True, slots=True)
class _Opened:
    user: User
    account: Account
    lock: AccountLock


class Accounts:
    """All accounts of the users file that can get mail, or only ``addresses`` if there are any.

    ``read_only``: nothing is locked or recovered, for a look beside a puller at work. ``failures`` says for each
    account that could not be opened, why.
    """

    def __init__(self, options: Http2mbox, addresses: Sequence[Address] = (), *, read_only: bool = False) -> None:
        self._options = options
        self._addresses = addresses
        self._read_only = read_only
        self._opened: dict[str, _Opened] = {}
        self.failures: dict[str, Exit | StubmailError | OSError] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter([opened.account for opened in self._opened.values()])

    def are_pulled_for(self) -> bool:
        """Whether another process is pulling for one of them, which matters to one that is ``read_only``."""
        return any(opened.lock.is_taken() for opened in self._opened.values())

    def reload(self) -> None:
        """Read the users file; open what is new or has failed before, close what is gone or has changed.

        An account that cannot be opened does not keep the others back. Raises ConfigError for the file itself.
        """
        users = {str(user.address): user for user in self._wanted()}
        for name in [name for name, opened in self._opened.items() if users.get(name) != opened.user]:
            _close(self._opened.pop(name))
        self.failures = {}
        for name, user in users.items():
            if name not in self._opened:
                try:
                    self._opened[name] = self._open(user)
                except (Exit, StubmailError, OSError) as error:
                    self.failures[name] = error

    def prepare(self) -> None:
        """Have an account that is alone and has no cookie get ready to decrypt: it is going to open a session."""
        match list(self):
            case [account]:
                account.jar.refresh()
                if account.jar.empty:
                    account.identity.prepare()

    def log_failures(self) -> None:
        """Say in the log which accounts could not be opened, and why."""
        for name, error in self.failures.items():
            text = error.text if isinstance(error, Exit | StubmailError) else str(error)
            event(_log, "not-opened", name, level=logging.ERROR, error=text)

    def standings(self) -> list[Standing]:
        """How things stand with each account. Raises StateError."""
        return [account.state.standing() for account in self]

    def save(self) -> None:
        """Write the cookies to disk; when that fails, the next run has to ask in full, and the log says so."""
        for account in self:
            try:
                account.jar.save()
            except OSError as error:
                event(_log, "not-saved", str(account.address), level=logging.WARNING, error=error)

    def close(self, patience: float = -1) -> None:
        """Complete deliveries under way, as Account.close does, and give the accounts free."""
        while self._opened:
            _close(self._opened.popitem()[1], patience)

    def _wanted(self) -> list[User]:
        users = load_users(self._options.users)
        if not self._addresses:
            wanted = [user for user in users if user.address is not None and user.gnupghome is not None]
            if not wanted:
                raise ConfigError(f"{self._options.users} has no account with an address and a gnupghome")
            return wanted
        found = {address: users.find(address.key) for address in self._addresses}
        if missing := [str(address) for address, user in found.items() if user is None]:
            raise ConfigError(f"{self._options.users} has no account {', '.join(missing)}")
        return [user for user in found.values() if user is not None]

    def _open(self, user: User) -> _Opened:
        assert user.address is not None
        directory = account_directory(self._options.state, user.address)
        for each in (self._options.state, directory):
            _make(each)
        lock = AccountLock(directory)
        if not self._read_only:
            lock.acquire(user.address)
        try:
            account = open_account(user, directory, self._options.lock_seconds, self._options.pipe_seconds)
            try:
                if not self._read_only:
                    account.recover()
            except BaseException:
                account.close()
                raise
        except BaseException:
            lock.release()
            raise
        return _Opened(user, account, lock)


def _make(directory: Path) -> None:
    """Make a directory of the state, if it is not there. Raises an Exit that says what to do."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        status = os.EX_NOPERM if isinstance(error, PermissionError) else os.EX_OSERR
        advice = "make it a directory of the user who runs http2mbox, or set [http2mbox] state to another one"
        raise Exit(status, f"state: {directory} cannot be used: {error.strerror}; {advice}") from error


def _close(opened: _Opened, patience: float = -1) -> None:
    if opened.account.close(patience):
        opened.lock.release()
