"""One account: its secret key, keyring, maildrop and state, held by one puller at a time."""

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from services.http2mbox.causes import MAX_NOTICES, SILENCE_SECONDS, Cause
from services.http2mbox.contacts import Contacts
from services.http2mbox.notices import Notice
from services.http2mbox.state import (
    REMEMBER_SECONDS,
    AccountTrouble,
    PostKey,
    State,
    cause_name,
    delivery_name,
    notice_name,
)
from services.http2mbox.trust import Recipient
from stubmail.address import Address
from stubmail.cookies import FILE_NAME, CookieJar
from stubmail.errors import Exit, TemporaryError
from stubmail.keyring import Keyring
from stubmail.log import event
from stubmail.maildrops import Maildrop, Pipe, parse_maildrop
from stubmail.mbox import Delivery
from stubmail.openpgp import Certificate, Identity
from stubmail.pull_state import FILE_NAME as STATE_FILE
from stubmail.settings import ConfigError
from stubmail.spool import clean_temporary
from stubmail.store_answers import Sent
from stubmail.users import User

INTERRUPT_SECONDS = 5.0  # for a delivery program that is ended to be gone

_log = logging.getLogger("http2mbox")


class CertificateSource(Protocol):
    """The part of a keyring that is asked again and again. Raises StubmailError."""

    def correspondents(self) -> dict[str, list[Certificate]]: ...

    def by_fingerprint(self, fingerprint: str) -> Certificate | None: ...


class Arrival(NamedTuple):
    """A verified message in its delivered form, ready for the maildrop."""

    key: PostKey
    sender: Address
    message: bytes


@dataclass(frozen=True, slots=True)
class Deposit:
    """What a delivery brought: messages that were not in the maildrop before, and those that it refuses, and why."""

    new: list[Arrival]
    refused: dict[PostKey, str]


class Account:
    """All that belongs to one account. ``deliver`` and ``tell`` are called from several threads; they let in one."""

    def __init__(
        self,
        address: Address,
        identity: Identity,
        keyring: CertificateSource,
        maildrop: Maildrop,
        directory: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.address = address
        self.identity = identity
        self.keyring = keyring
        self.directory = directory
        self.recipient = Recipient(address, identity.fingerprint)
        self.state = State(directory / STATE_FILE)
        self.jar = CookieJar(directory / FILE_NAME)
        self._maildrop = maildrop
        self._clock = clock
        self.turn = threading.Lock()  # of the one domain whose mail is being opened and delivered
        self._delivering = threading.Lock()
        self._correspondents: dict[str, list[Certificate]] | None = None
        self._contacts = Contacts({})

    def contacts(self) -> Contacts:
        """Return the correspondents as the keyring has them now. Raises StubmailError."""
        correspondents = self.keyring.correspondents()
        if correspondents != self._correspondents:
            self._correspondents = correspondents
            self._contacts = Contacts(correspondents)
        return self._contacts

    def recover(self) -> None:
        """Record what a crash left delivered but not recorded, and drop what is old. Raises AccountTrouble."""
        try:
            clean_temporary(self.directory)
            self._maildrop.recover(self._record)
            self.state.forget_before(int(self._clock()) - REMEMBER_SECONDS)
        except (TemporaryError, OSError) as error:
            raise _trouble(error) from error

    def deliver(self, arrivals: Sequence[Arrival]) -> Deposit:
        """Put messages durably into the maildrop and record them.

        When it raises AccountTrouble, the messages may or may not be in the maildrop; a second attempt finds out.
        """
        with self._delivering:
            try:
                there = self.state.delivered(arrival.key for arrival in arrivals)
                new = [arrival for arrival in arrivals if arrival.key not in there]
                when = self._clock()
                named = {delivery_name(arrival.key): arrival for arrival in new}
                messages = [Delivery(name, str(a.sender), when, a.message) for name, a in named.items()]
                refused = self._maildrop.deliver(messages, self._record) or {}
            except (TemporaryError, OSError) as error:
                raise _trouble(error) from error
        taken = [arrival for name, arrival in named.items() if name not in refused]
        return Deposit(taken, {named[name].key: text for name, text in refused.items()})

    def tell(self, posts: Sequence[Sent], compose: Callable[[Sequence[Sent]], Sequence[Notice]]) -> Sequence[Notice]:
        """Put notices about posts of our own durably into the maildrop and record them; return those that are new.

        ``compose`` makes them, of the posts that the account was not told of yet. When this raises AccountTrouble, they
        may or may not be in the maildrop; a second attempt finds out.
        """
        with self._delivering:
            try:
                new = self._untold(posts)
                if new:
                    # First of all, what an earlier attempt has brought further than we know: other posts may have
                    # ended since, and go into one notice with those that it told of.
                    self._maildrop.recover(self._record)
                    new = self._untold(new)
                notices = compose(new) if new else ()
                when = self._clock()
                named = [(notice_name(post.id for post in notice.posts), notice.message) for notice in notices]
                self._put([Delivery(name, "", when, message) for name, message in named if message is not None])
                if untold := [name for name, message in named if message is None]:
                    self._record(untold)
            except (TemporaryError, OSError) as error:
                raise _trouble(error) from error
        return notices

    def warn(self, causes: Sequence[Cause], compose: Callable[[Cause], bytes]) -> int:
        """Put a notice about each cause durably into the maildrop unless it was told of lately; return how many.

        ``compose`` makes them. Raises AccountTrouble as ``tell`` does.
        """
        with self._delivering:
            try:
                when = self._clock()
                known = self.state.warned((cause.name for cause in causes), when - SILENCE_SECONDS)
                new = {cause.name: cause for cause in causes if cause.name not in known}
                notices = [
                    Delivery(cause_name(name), "", when, compose(cause))
                    for name, cause in list(new.items())[:MAX_NOTICES]
                ]
                return self._put(notices)
            except (TemporaryError, OSError) as error:
                raise _trouble(error) from error

    def drop(self, keys: Sequence[PostKey]) -> None:
        """Count posts as delivered that are not wanted, so that they are acknowledged now and ever after."""
        self._record([delivery_name(key) for key in keys])

    def close(self, patience: float = -1) -> bool:
        """Give up key and state. A delivery under way in another thread is completed first, a later one fails.

        ``patience``: seconds to wait for that (-1: until it is). A delivery program that takes longer is ended. Another
        delivery that does, because another program has the maildrop locked, is left to itself, and False returned: the
        process must end without giving the account free. Wherever the delivery ends then, the next start takes it up.
        """
        if not self._delivering.acquire(timeout=patience):
            if not isinstance(self._maildrop, Pipe):
                return False
            self._maildrop.interrupt()
            if not self._delivering.acquire(timeout=INTERRUPT_SECONDS):
                return False
        try:
            self.state.close()
            self.identity.close()
        finally:
            self._delivering.release()
        return True

    def _put(self, notices: Sequence[Delivery]) -> int:
        """Deliver notices and return how many it were; of one that the maildrop refuses, the log alone tells."""
        refused = self._maildrop.deliver(notices, self._record) or {}
        for text in refused.values():
            event(_log, "notice-refused", str(self.address), level=logging.WARNING, reason=text)
        if refused:
            self._record(list(refused))
        return len(notices) - len(refused)

    def _untold(self, posts: Sequence[Sent]) -> list[Sent]:
        told = self.state.told(post.id for post in posts)
        return [post for post in posts if post.id not in told]

    def _record(self, names: Sequence[str]) -> None:
        self.state.record(names, int(self._clock()))


class AccountLock:
    """Keeps a second puller off an account, until it is released or the process ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor = -1

    def acquire(self, address: Address) -> None:
        """Take the lock. Raises Exit 75 that names the process which has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            text = f"another http2mbox{f' (process {holder})' if holder else ''} is pulling for {address}"
            raise Exit(os.EX_TEMPFAIL, text) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def is_taken(self) -> bool:
        """Whether another process has the lock now."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the account free."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_account(user: User, directory: Path, lock_seconds: float, pipe_seconds: float) -> Account:
    """Open the account of a user of the users file; no other puller is kept off yet, and nothing is delivered.

    ``directory`` is the account's own in the state directory; how long to wait for the maildrop: see Location.open.
    Raises ConfigError that names the user, PermanentError when the key cannot be used, StateError, OSError.
    """
    if user.address is None or user.gnupghome is None:
        raise ConfigError(f"user {user.name} needs an address and a gnupghome to get mail")
    location = parse_maildrop(user)
    if not user.gnupghome.is_dir():
        raise ConfigError(f"user {user.name}: there is no GnuPG home {user.gnupghome}")
    keyring = Keyring(user.gnupghome)
    identity = keyring.identity(user.address, user.passphrase())
    # Several accounts may share a maildrop: each learns of its own interrupted deliveries only.
    owner = f"http2mbox-{hashlib.sha256(user.address.key.encode()).hexdigest()[:16]}"
    try:
        maildrop = location.open(directory, owner, str(user.address), lock_seconds, pipe_seconds)
        return Account(user.address, identity, keyring, maildrop, directory)
    except BaseException:
        identity.close()
        raise


def _trouble(error: TemporaryError | OSError) -> AccountTrouble:
    if isinstance(error, TemporaryError):
        return AccountTrouble(error.code, error.text)
    return AccountTrouble("4.3.0", f"{error.filename or 'the disk'}: {error.strerror or error}")
