"""The process that strangers talk to: the server as ever, but for logins and what follows them."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from services.pop3d.actions import Credentials
from services.pop3d.actions import Login as Password
from services.pop3d.channel import Channel
from services.pop3d.login import Attempt, Door, Elsewhere, Handed, Refused, Rules
from services.pop3d.maildrop import Maildrop
from services.pop3d.server import Bound, Server
from services.pop3d.settings import Pop3d
from services.pop3d.system import people
from services.pop3d.system.calls import KNOCK, MAX_CALL, MAX_OCTETS, Answer, CallError, Done, HandOver, Login
from services.pop3d.system.landlock import forbid_files
from services.pop3d.system.pam import nobodys
from services.pop3d.system.refusals import EqualTimes
from services.pop3d.system.relay import Relay
from services.pop3d.tls import ServerContext, load_certificate
from stubmail.counters import Counters
from stubmail.log import event
from stubmail.users import Users

MAX_UNDECIDED = 256  # each has a process of its own
_OUT_OF_ORDER = "Logins are out of order, try again later"

logger = logging.getLogger("pop3d")


class Front(Server):
    """All strangers of this process; ``keeper`` is a socket to the process that starts those of sessions."""

    def __init__(self, settings: Pop3d, tls: ServerContext | None, keeper: socket.socket) -> None:
        super().__init__(settings, Users([]), tls)
        self._keeper = keeper
        alarm = partial(self.counters.add, "attacks")
        sessions = partial(MailSession, settings.write_seconds, self.counters)
        self.door = SystemDoor(
            self._rules, self._passwords, self.mail, keeper, sessions, alarm, settings.domains_of_users
        )
        self._reloads: set[asyncio.Task[None]] = set()
        self._pems = b""

    async def start(self, bound: Sequence[Bound] | None = None) -> None:
        """Listen on sockets that were bound by somebody who may."""
        asyncio.get_running_loop().add_reader(self._keeper, self._heard)
        await super().start(bound)
        # All that is needed is open or loaded; what remains to be read comes through sockets.
        event(logger, "confined", "front", files="none" if forbid_files() else "those of its user")

    async def reload(self) -> None:
        """Use the certificate that the keeper sent: this process cannot read the files, and there are no users."""
        if self._pems:
            cert, _, key = self._pems.partition(b"\0")
            certificate = self._settings.tls_cert
            self._tls = await self.read_again(certificate, partial(_from_memory, cert, key), self._tls)
            self.tell_reloaded(certificate)

    def _heard(self) -> None:
        with suppress(OSError):
            self._pems = self._keeper.recv(MAX_CALL)
            if not self._pems:  # the keeper is gone, and the kernel has told this process to end
                asyncio.get_running_loop().remove_reader(self._keeper)
            task = asyncio.get_running_loop().create_task(self.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)


class SystemDoor(Door):
    """Lets in whom a session process lets in; who gives an address in one of ``domains`` is the user of that name."""

    def __init__(
        self,
        rules: Rules,
        passwords: Executor,
        mail: Executor,
        keeper: socket.socket,
        sessions: Callable[[socket.socket, str], "MailSession"],
        alarm: Callable[[], None],
        domains: Set[str],
    ) -> None:
        super().__init__(Users([]), rules, passwords, mail, _no_maildrop, alarm=alarm)
        self._keeper = keeper
        self._sessions = sessions
        self._domains = domains
        self._times = EqualTimes()
        self._undecided = 0  # logins that wait for PAM

    async def login(self, attempt: Attempt, credentials: Credentials) -> Elsewhere:
        """Return the process that has the maildrop open. Raises Refused."""
        async with self._turn(attempt):
            session = await self._check(attempt, credentials) if isinstance(credentials, Password) else None
            if session is None:
                await self._sleep(self._failed(attempt, credentials))
                raise Refused("AUTH", "Authentication failed")
        try:
            self._not_too_soon(attempt, session.user)
        except Refused:
            session.close()
            raise
        self._logged_in(session.user)
        return session

    async def _check(self, attempt: Attempt, password: Password) -> "MailSession | None":
        """As _ask, with refusals that all take the same time."""
        if self._undecided >= MAX_UNDECIDED:
            event(logger, "refused", attempt.session, address=attempt.address, reason="too many logins at a time")
            raise Refused("SYS/TEMP", "Too many logins at a time")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._undecided += 1
        try:
            session = await self._ask(attempt, password)
        finally:
            self._undecided -= 1
        if session is None:
            await self._sleep(self._times.wait(loop.time() - begun))
        return session

    async def _ask(self, attempt: Attempt, password: Password) -> "MailSession | None":
        """Return a process that has checked the password and opened the maildrop; None when it is wrong."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        name = people.unix_name(password.name, self._domains)
        # PAM is asked about who would act as another too, and refuses as it does for any wrong password.
        itself = not password.identity or people.unix_name(password.identity, self._domains) == name
        secret = password.password if itself else nobodys()
        try:
            login = Login(attempt.session, attempt.address, name.decode("latin-1"), secret.decode("latin-1"))
            with theirs:
                socket.send_fds(self._keeper, [KNOCK], [theirs.fileno()])
            ours.send(login.to_wire())
            data = await asyncio.get_running_loop().sock_recv(ours, MAX_CALL)
            answer = Answer.from_wire(data)
        except (OSError, CallError) as error:
            ours.close()
            event(logger, "failed", attempt.session, logging.ERROR, reason=f"no answer from a session process: {error}")
            raise Refused("SYS/TEMP", _OUT_OF_ORDER) from error
        except BaseException:
            ours.close()
            raise
        if answer.user:
            return self._sessions(ours, answer.user)
        ours.close()
        if answer.code == "AUTH":
            return None
        raise Refused(answer.code, answer.text)

    def _account(self, name: bytes) -> bytes:
        return super()._account(people.unix_name(name, self._domains))


class MailSession:
    """One session process, as the front sees it; see services.pop3d.login.Elsewhere."""

    def __init__(self, patience: float, counters: Counters, call: socket.socket, user: str) -> None:
        self.user = user
        self._patience = patience
        self._counters = counters
        self._call = call
        self._open = 1  # ends that are awaited: of the process, and of the client's connection if that stays here
        self._ended: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Let it end: without a client it does."""
        self._call.close()

    def take(self, channel: Channel, handed: Handed) -> None:
        """Send it the client's socket, or one end of a pair when TLS, or octets that wait, keep the client here."""
        self._ended = handed.ended
        descriptor = channel.descriptor() if len(handed.octets) <= MAX_OCTETS else -1
        asyncio.get_running_loop().add_reader(self._call, self._heard)
        channel.pause_reading()
        if descriptor >= 0:
            self._send(handed, handed.octets, descriptor)
            channel.abort()  # the connection lives on over there
            return
        ours, theirs = socket.socketpair()
        self._open = 2
        ours.setblocking(False)
        relay = Relay(channel, self._patience, self._one_ended)
        with theirs:
            self._send(handed, b"", theirs.fileno())
        relay.begin(ours, handed.octets)

    def _send(self, handed: Handed, octets: bytes, descriptor: int) -> None:
        call = HandOver(handed.mechanism, handed.encrypted, octets.decode("latin-1"))
        with suppress(OSError):  # it has died: the end of the call is heard next
            socket.send_fds(self._call, [call.to_wire()], [descriptor])

    def _heard(self) -> None:
        try:
            data = self._call.recv(MAX_CALL)
            counts = Done.from_wire(data).counts if data else {}
        except BlockingIOError:
            return
        except (OSError, CallError):
            data, counts = b"", {}
        for name, number in counts.items():
            # It was made by a user's process: numbers that make sense, or none.
            if isinstance(number, int) and 0 <= number < 1 << 40:
                with suppress(KeyError):
                    self._counters.add(name, number)
        if not data:
            asyncio.get_running_loop().remove_reader(self._call)
            self._call.close()
            self._one_ended()

    def _one_ended(self) -> None:
        self._open -= 1
        if not self._open:
            self._ended()


def _no_maildrop(place: str) -> Maildrop:
    raise AssertionError(f"the front opens no maildrop, not even {place}")


def _from_memory(cert: bytes, key: bytes) -> ServerContext | None:
    """Load a certificate from octets: the TLS library reads files only, and this process may not read those."""
    with _memory_file(cert) as one, _memory_file(key) as other:
        return load_certificate(one, other)


@contextmanager
def _memory_file(content: bytes) -> Iterator[Path]:
    descriptor = os.memfd_create("pem")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{descriptor}")
