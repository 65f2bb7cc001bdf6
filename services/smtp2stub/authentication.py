"""Who a client is (RFC 4954): passwords checked off the event loop, wrong ones made to wait."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from stubmail.errors import PermanentError, TemporaryError
from stubmail.limits import FailureDelays, network
from stubmail.scram import Keys
from stubmail.scram_users import ScramUsers
from stubmail.users import User, Users

PARALLEL = 8  # attempts from one network that are checked, or serve their delay, at the same time
QUEUE = 64  # attempts from one network that wait for their turn


class Authenticator:
    """Checks logins; ``replace`` the users at any time. ``passwords`` is the thread pool for hashing."""

    def __init__(self, users: Users, delays: FailureDelays, passwords: Executor) -> None:
        self.replace(users)
        self._delays = delays
        self._passwords = passwords
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}

    def replace(self, users: Users) -> None:
        """Let these accounts be the ones that can log in."""
        self.users = users
        self._scram = ScramUsers(users)

    @property
    def offers_scram(self) -> bool:
        """Whether SCRAM-SHA-256 works for every account."""
        return self._scram.offered

    async def check(self, login: bytes, password: bytes, peer: str, identity: bytes = b"") -> User:
        """Return the account. Raises PermanentError 5.7.8 after a delay when there is none such, TemporaryError 4.7.0
        when too many from that network try at once.

        ``identity``, if there is one, must be another name of the same account: nobody acts as somebody else.
        """
        loop = asyncio.get_running_loop()
        users = self.users
        async with self._turn(network(peer)):
            user = await loop.run_in_executor(self._passwords, _authenticate, users, login, password)
            known = await self._known(user, peer)
        return _itself(known, users.find(login.decode(), identity.decode("utf-8", "replace")))

    async def scram_keys(self, name: bytes, peer: str) -> Keys:
        """Return what SCRAM needs of an account, or what looks like it. Raises TemporaryError 4.7.0, as ``check``."""
        async with self._turn(network(peer)):
            return await asyncio.get_running_loop().run_in_executor(self._passwords, self._scram.keys, name)

    async def proven(self, name: bytes, peer: str, identity: bytes = b"", *, proven: bool) -> User:
        """Return the account after an exchange of SCRAM; ``identity`` as in ``check``. Raises as ``check``."""
        accounts = self._scram
        async with self._turn(network(peer)):
            known = await self._known(accounts.find(name) if proven else None, peer)
        return _itself(known, accounts.find(name, identity))

    async def _known(self, user: User | None, peer: str) -> User:
        if user is None or user.address is None:
            await asyncio.sleep(self._delays.failed(network(peer), asyncio.get_running_loop().time()))
            raise PermanentError("5.7.8", "the name or the password is wrong")
        return user

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        semaphore, present = self._turns.get(name, (asyncio.Semaphore(PARALLEL), 0))
        if present >= PARALLEL + QUEUE:
            raise TemporaryError("4.7.0", "too many logins at a time")
        self._turns[name] = semaphore, present + 1
        try:
            async with semaphore:
                yield
        finally:
            present = self._turns[name][1] - 1
            if present:
                self._turns[name] = semaphore, present
            else:
                del self._turns[name]


def _itself(user: User, acting: User | None) -> User:
    """Return the account that may act as the one it wants to. Raises PermanentError 5.7.8."""
    if acting is not user:
        raise PermanentError("5.7.8", "nobody may act as somebody else")
    return user


def _authenticate(users: Users, login: bytes, password: bytes) -> User | None:
    """Check a name and a password as they came; both are UTF-8 in the users file."""
    try:
        name, secret = login.decode(), password.decode()
    except UnicodeDecodeError:  # cannot match, must take as long
        users.authenticate("", password.decode("utf-8", "replace"))
        return None
    return users.authenticate(name, secret)


def from_base64(text: str) -> bytes:
    """Decode what a client sent; ``=`` stands for an empty answer (RFC 4954 §4). Raises PermanentError 5.5.2."""
    try:
        return b"" if text == "=" else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PermanentError("5.5.2", "that is not base64") from error


def parse_plain(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the identity to act as, login and password of a PLAIN message (RFC 4616 §2). Raises PermanentError."""
    parts = data.split(b"\0")
    if len(parts) != 3 or not parts[1]:
        raise PermanentError("5.5.2", "that is no PLAIN message")
    return parts[0], parts[1], parts[2]
