"""From credentials to an open maildrop: passwords checked off the event loop, wrong ones made to wait."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.pop3d.actions import Login
from services.pop3d.maildrop import InUse, Maildrop
from stubmail.errors import PermanentError, TemporaryError
from stubmail.limits import FailureDelays
from stubmail.log import event
from stubmail.users import User, Users

PARALLEL = 8  # attempts of one network that are checked or pay their delay at the same time
QUEUE = 64  # attempts of one network that wait for their turn
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
    """One login: the credentials, the session's id for the log, its peer, and whether that is still there."""

    credentials: Login
    session: str
    address: str
    network: str
    gone: Callable[[], bool]


class Door:
    """Lets those with a password in. ``users`` may be replaced at any time.

    ``passwords`` and ``mail`` are thread pools: hashing takes a processor for tens of milliseconds, mailboxes block.
    ``open_maildrop`` opens what the users file names, as Location.open does.
    """

    def __init__(
        self,
        users: Users,
        delays: FailureDelays,
        passwords: Executor,
        mail: Executor,
        open_maildrop: Callable[[str], Maildrop],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.users = users
        self._open_maildrop = open_maildrop
        self._sleep = sleep
        self._delays = delays
        self._passwords = passwords
        self._mail = mail
        self._turns: dict[str, _Turns] = {}

    async def login(self, attempt: Attempt) -> tuple[User, Maildrop]:
        """Return the user and the open maildrop, which the caller must close. Raises Refused."""
        loop = asyncio.get_running_loop()
        async with self._turn(attempt):
            user = await loop.run_in_executor(self._passwords, _authenticate, self.users, attempt.credentials)
            if user is None:
                delay = self._delays.failed(attempt.network, loop.time())
                name = attempt.credentials.name.decode("utf-8", "backslashreplace")
                event(logger, "refused", attempt.session, address=attempt.address, login=name, delay=f"{delay:.2f}")
                await self._sleep(delay)
                raise Refused("AUTH", "Authentication failed")
        try:
            return user, await self._open(user)
        except InUse:
            event(logger, "refused", attempt.session, user=user.name, reason="maildrop in use")
            raise Refused("IN-USE", "Another session has the maildrop open") from None
        except (PermanentError, PermissionError) as error:
            event(logger, "failed", attempt.session, logging.ERROR, user=user.name, reason=error)
            raise Refused("SYS/PERM", "The maildrop cannot be opened") from error
        except (TemporaryError, OSError) as error:
            event(logger, "failed", attempt.session, logging.ERROR, user=user.name, reason=error)
            raise Refused("SYS/TEMP", "The maildrop cannot be opened now") from error

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


def _authenticate(users: Users, credentials: Login) -> User | None:
    """Check a name and a password as they came; both are UTF-8 in the users file."""
    try:
        name, password = credentials.name.decode(), credentials.password.decode()
    except UnicodeDecodeError:  # cannot match, must take as long
        users.authenticate("", credentials.password.decode("utf-8", "replace"))
        return None
    return users.authenticate(name, password)
