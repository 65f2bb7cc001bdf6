"""From credentials to an open maildrop: passwords checked off the event loop, wrong ones made to wait."""

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from services.pop3d.actions import Credentials
from services.pop3d.channel import Channel
from services.pop3d.maildrop import InUse, Maildrop
from services.pop3d.verifier import Verifier
from stubmail.errors import PermanentError, TemporaryError
from stubmail.limits import FailureDelays
from stubmail.log import event
from stubmail.scram import Keys
from stubmail.users import User, Users

PARALLEL = 8  # attempts of one network that are checked or pay their delay at the same time
QUEUE = 64  # attempts of one network that wait for their turn
ALARM = 10  # failures in short time of one network, or with one name, are logged as an attack
IN_USE_TRIES = 10  # a client that lost its connection comes back before its end is noticed here
IN_USE_PAUSE = 0.05  # seconds

logger = logging.getLogger("pop3d")


class Refused(Exception):
    """The login failed: response code (RFC 3206) and text for the client; the log has the reason."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class _Turns:
    """The attempts of one network: hanging up early or trying in parallel is no way around the delay."""

    semaphore: asyncio.Semaphore
    present: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who tries to log in: the session's id for the log, its peer, and whether that is gone."""

    session: str
    address: str
    network: str
    gone: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Rules:
    """What logging in costs. ``by_network`` and ``by_user`` delay wrong passwords: whoever has failed more often waits.

    ``login_delay``: seconds between two logins of one user (RFC 2449 §6.5).
    """

    by_network: FailureDelays
    by_user: FailureDelays
    login_delay: float = 0.0


class Elsewhere(Protocol):
    """Another process that has opened the maildrop and goes on with the session, once it has the client."""

    def take(self, channel: Channel, handed: "Handed") -> None:
        """Go on with the client, and call ``handed.ended`` when the session is over and the client gone."""

    def close(self) -> None:
        """Let go of the maildrop: the client is not there any more."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What another process needs to go on: how the client logged in, and the commands that came behind that."""

    mechanism: str
    encrypted: bool
    octets: bytes
    ended: Callable[[], None]


class Door:
    """Lets those with a password in. ``users`` may be replaced at any time.

    ``passwords`` and ``mail`` are thread pools: hashing takes a processor for tens of milliseconds, mailboxes block.
    ``open_maildrop`` opens what the users file names, as Location.open does. ``alarm`` is called at each attack.
    """

    def __init__(
        self,
        users: Users,
        rules: Rules,
        passwords: Executor,
        mail: Executor,
        open_maildrop: Callable[[str], Maildrop],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        alarm: Callable[[], None] = lambda: None,
    ) -> None:
        self.verifier = Verifier(users)
        self._rules = rules
        self._open_maildrop = open_maildrop
        self._sleep = sleep
        self._alarm = alarm
        self._passwords = passwords
        self._mail = mail
        self._turns: dict[str, _Turns] = {}
        self._logins: dict[str, float] = {}  # when each user logged in last, if that matters

    async def keys(self, attempt: Attempt, name: bytes) -> Keys:
        """Return what SCRAM needs of this name, whether or not there is such a user. Raises Refused."""
        async with self._turn(attempt):
            return await asyncio.get_running_loop().run_in_executor(self._passwords, self.verifier.keys, name)

    async def login(self, attempt: Attempt, credentials: Credentials) -> tuple[User, Maildrop] | Elsewhere:
        """Return the user and the open maildrop, which the caller must close, or who else has it. Raises Refused."""
        loop = asyncio.get_running_loop()
        async with self._turn(attempt):
            user = await loop.run_in_executor(self._passwords, self.verifier.check, credentials)
            if user is None:
                await self._sleep(self._failed(attempt, credentials))
                raise Refused("AUTH", "Authentication failed")
        self._not_too_soon(attempt, user.name)
        try:
            maildrop = await self._open(user)
        except InUse:
            event(logger, "refused", attempt.session, user=user.name, reason="maildrop in use")
            raise Refused("IN-USE", "Another session has the maildrop open") from None
        except (PermanentError, PermissionError) as error:
            event(logger, "failed", attempt.session, logging.ERROR, user=user.name, reason=error)
            raise Refused("SYS/PERM", "The maildrop cannot be opened") from error
        except (TemporaryError, OSError) as error:
            event(logger, "failed", attempt.session, logging.ERROR, user=user.name, reason=error)
            raise Refused("SYS/TEMP", "The maildrop cannot be opened now") from error
        self._logged_in(user.name)
        return user, maildrop

    def _not_too_soon(self, attempt: Attempt, user: str) -> None:
        """Keep to the announced LOGIN-DELAY (RFC 2449 §6.5). Raises Refused."""
        now = asyncio.get_running_loop().time()
        if now < self._logins.get(user, -math.inf) + self._rules.login_delay:
            event(logger, "refused", attempt.session, user=user, reason="too soon after the last login")
            raise Refused("LOGIN-DELAY", "Too soon after the last login")

    def _logged_in(self, user: str) -> None:
        if self._rules.login_delay:
            self._logins[user] = asyncio.get_running_loop().time()

    def _failed(self, attempt: Attempt, credentials: Credentials) -> float:
        """Log and count wrong credentials; returns after how many seconds they may be answered.

        Guesses that come from everywhere cost too, since they are counted for the name as well; who knows the password
        never waits.
        """
        now = asyncio.get_running_loop().time()
        name = credentials.name.decode("utf-8", "backslashreplace")
        about: dict[str, Any] = {"address": attempt.address, "login": name, "mechanism": credentials.mechanism}
        if credentials.identity:
            about["identity"] = credentials.identity.decode("utf-8", "backslashreplace")
        # Those of strangers may be long and many.
        user = hashlib.blake2b(self._account(credentials.name), digest_size=16).hexdigest()
        delay = 0.0
        for by, delays, whose in (
            ("address", self._rules.by_network, attempt.network),
            ("login", self._rules.by_user, user),
        ):
            delay = max(delay, delays.failed(whose, now))
            if delays.failures(whose, now) >= ALARM > delays.failures(whose, now) - 1:
                self._alarm()
                event(logger, "attacked", attempt.session, logging.WARNING, by=by, **about)
        event(logger, "refused", attempt.session, **about, delay=f"{delay:.2f}")
        return delay

    def _account(self, name: bytes) -> bytes:
        """Return what failures with this name count for: an account has one name for all that it goes by."""
        known = self.verifier.find(name)
        return known.name.encode() if known else name.lower()

    async def _open(self, user: User) -> Maildrop:
        loop = asyncio.get_running_loop()
        for _ in range(IN_USE_TRIES):
            try:
                return await loop.run_in_executor(self._mail, self._open_maildrop, user.maildrop)
            except InUse:
                await self._sleep(IN_USE_PAUSE)
        return await loop.run_in_executor(self._mail, self._open_maildrop, user.maildrop)

    @asynccontextmanager
    async def _turn(self, attempt: Attempt) -> AsyncIterator[None]:
        turns = self._turns.setdefault(attempt.network, _Turns(asyncio.Semaphore(PARALLEL)))
        if turns.present >= PARALLEL + QUEUE:
            event(logger, "refused", attempt.session, address=attempt.address, reason="too many attempts at a time")
            raise Refused("SYS/TEMP", "Too many attempts at a time")
        turns.present += 1
        try:
            async with turns.semaphore:
                if attempt.gone():
                    raise Refused("", "")
                yield
        finally:
            turns.present -= 1
            if not turns.present:
                del self._turns[attempt.network]
