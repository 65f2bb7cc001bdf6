"""The gateway's parts for tests: messages in a queue, accounts, and an SMTP client that says what it is told."""

import asyncio
import random
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

import uvloop

from services.smtp2stub.acceptance import Acceptance
from services.smtp2stub.authentication import Authenticator
from services.smtp2stub.counters import Counters
from services.smtp2stub.courier import Courier
from services.smtp2stub.dsn import statuses
from services.smtp2stub.intake import Intake
from services.smtp2stub.job import Job
from services.smtp2stub.lmtp import LmtpDialog
from services.smtp2stub.schedule import Schedule
from services.smtp2stub.session import Dialog
from services.smtp2stub.settings import Smtp2stub
from stubmail.address import Address
from stubmail.dsn import Action
from stubmail.errors import PermanentError, StubmailError, TemporaryError
from stubmail.limits import FailureDelays
from stubmail.queue import Item, Outcome, Progress, Queue, Recipient, State, Stored, new_queue_id
from stubmail.users import User, Users

ALICE = Address("alice", "alpha.example")
BOB = Address("bob", "beta.example")
CAROL = Address("carol", "legacy.example")
NOW = 1_800_000_000.0
MESSAGE = b"From: alice@alpha.example\r\nSubject: hello\r\n\r\nThe text\r\n"
USERS = (
    User("alice", ALICE, "{PLAIN}wonderland"),
    User("mallory", Address("mallory", "alpha.example"), "{PLAIN}evil"),
)


def make_item(
    number: int,
    *recipients: Address,
    size: int = len(MESSAGE),
    mail_from: Address | None = ALICE,
    accepted: float = NOW,
) -> Item:
    """A message of alice's; ``number`` makes its ids."""
    return Item(
        id=new_queue_id(accepted, lambda _: number),
        account="alice",
        accepted=accepted,
        mail_from=mail_from,
        sender=ALICE,
        recipients=tuple(
            Recipient(address, number.to_bytes(8, "big") + index.to_bytes(8, "big"))
            for index, address in enumerate(recipients or (BOB,))
        ),
        size=size,
    )


def accept(queue: Queue, *items: Item, message: bytes = MESSAGE) -> None:
    """Put messages into the queue together, as the receiver does."""
    items = tuple(replace(item, size=len(message)) for item in items)
    queue.accept(items[0].id, [piece for item in items for piece in (item.head_to_wire(), message)])


def make_queue(root: Path) -> Queue:
    """An empty queue."""
    queue = Queue(root)
    queue.create()
    return queue


class Client:
    """Sends octets as they are and reads whole replies; use it as a context manager."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None, window: int = 0) -> None:
        """``window``: how many octets may wait to be read, 0 for as many as usual."""
        self._socket = socket.socket()
        self._socket.settimeout(60)
        if window:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._socket.connect(address)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Send octets again and again, slowly, until the server says something or hangs up."""
        ready = select.poll()  # select(2) takes no descriptor above 1023
        ready.register(self._socket, select.POLLIN)
        while not ready.poll(10):
            self._socket.sendall(data)

    def reply(self) -> str:
        """Read one reply, its lines joined; empty when the server has closed."""
        lines = []
        while line := self._file.readline().decode():
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                break
        return "\n".join(lines)

    def say(self, line: str) -> str:
        """Send a command and read its reply."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def submit(self, message: bytes = MESSAGE, *recipients: str, mail_from: str = str(ALICE)) -> str:
        """Submit a message, whose dots are stuffed already; returns the reply to its end."""
        assert self.say(f"MAIL FROM:<{mail_from}>").startswith("250")
        for recipient in recipients or (str(BOB),):
            assert self.say(f"RCPT TO:<{recipient}>").startswith("250")
        assert self.say("DATA").startswith("354")
        self.send(message + b".\r\n")
        return self.reply()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on under TLS, the server having said 220."""
        self._socket = context.wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def half_close(self) -> None:
        """Say that nothing more comes."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        with suppress(OSError):
            self._socket.close()


class Gateway:
    """A receiver inside the test's process."""

    def __init__(self, queue: Queue, address: tuple[str, int], acceptance: Acceptance) -> None:
        self.queue = queue
        self.address = address
        self.acceptance = acceptance

    def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        """Connect and read the greeting."""
        client = Client(self.address, tls)
        greeting = client.reply()
        assert greeting.startswith("220 gate.alpha.example "), greeting
        return client

    def hello(self) -> Client:
        """Connect and say EHLO."""
        client = self.connect()
        assert client.say("EHLO client.example").startswith("250")
        return client

    def messages(self) -> list[tuple[Item, bytes]]:
        """What has been accepted."""
        return [(stored.item, stored.content()) for stored in self.queue.messages()]


@contextmanager
def gateway(
    spool: Path,
    options: Smtp2stub,
    tls: ssl.SSLContext | None = None,
    *,
    implicit_tls: bool = False,
    lmtp: bool = False,
    users: Sequence[User] = USERS,
) -> Iterator[Gateway]:
    """Serve on a free loopback port, in a thread of its own."""
    queue = make_queue(spool)
    ready = threading.Event()
    found: list[Gateway] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        with ExitStack() as resources:
            passwords = resources.enter_context(ThreadPoolExecutor(1))
            counters = Counters()
            intake = Intake(queue, counters=counters)
            resources.callback(intake.close)
            authenticator = Authenticator(Users(list(users)), FailureDelays(0.0, 0.0, 60.0), passwords)
            acceptance = Acceptance(
                "gate.alpha.example", options, authenticator, intake, queue.incoming, counters=counters
            )
            factory = partial(Dialog, acceptance, tls, loop, implicit_tls)
            if lmtp:
                factory = partial(LmtpDialog, acceptance, loop)
            server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls if implicit_tls else None)
            found.append(Gateway(queue, server.sockets[0].getsockname(), acceptance))
            stop.append((loop, stopped))
            ready.set()
            await stopped.wait()
            acceptance.draining = True
            server.close()
            for connection in list(acceptance.connections):
                connection.drain()
            if acceptance.connections:
                await asyncio.wait_for(acceptance.empty.wait(), 10)

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        loop, stopped = stop[0]
        loop.call_soon_threadsafe(stopped.set)
        thread.join(20)


Fate = str | StubmailError


class Outside:
    """What lies beyond the gateway, as its couriers find it, one after the other: each recipient's fate.

    ``fates`` says by domain what happens: "stub" is stored, once however often it is sent; "relay" is passed on, twice
    when it is sent twice; a StubmailError is what an attempt ends with. Of a list, the first is for the first attempt,
    and so on; the last stays. Other domains are stub domains.
    """

    def __init__(self) -> None:
        self.fates: dict[str, Fate | list[Fate]] = {}
        self.stored: dict[bytes, Address] = {}
        self.relayed: list[tuple[str, Address]] = []
        self.notices: dict[str, list[str]] = {}
        self.retries = 0
        self.attempts = 0
        self.no_maildrop = False
        self.busy_maildrop = False

    # as Dispatch

    def retry(self) -> None:
        self.retries += 1

    async def attempt(self, job: Job, indices: Sequence[int]) -> None:
        self.attempts += 1
        for index in indices:
            recipient = job.item.recipients[index]
            fate = self.fates.get(recipient.address.domain, "stub")
            if isinstance(fate, list):
                fate = fate.pop(0) if len(fate) > 1 else fate[0]
            if isinstance(fate, StubmailError):
                await job.record({index: Outcome.of(fate, "stub")})
                continue
            assert job.stored.content()
            if fate == "relay":
                await job.file()
                self.relayed.append((job.item.id, recipient.address))
            else:
                self.stored[recipient.post_id] = recipient.address
            via = "smarthost" if fate == "relay" else fate
            await job.record({index: Outcome(State.DONE, "2.0.0", "", via)})

    # as Notices

    def notifier(self, queue: Queue) -> "Notifier":
        return Notifier(self, queue)


class Notifier:
    """Puts notices into the one maildrop there is, which forgets nothing."""

    def __init__(self, outside: Outside, queue: Queue) -> None:
        self._outside = outside
        self._queue = queue

    def deliver(self, stored: Stored, progress: Progress) -> None:
        if self._outside.no_maildrop:
            raise PermanentError("5.3.5", "no maildrop")
        if self._outside.busy_maildrop:
            raise TemporaryError("4.2.0", "the maildrop is locked")
        name = f"{stored.item.id}.{progress.notices}"
        if self._queue.told(stored.item.id) < progress.notices:
            told = [
                str(each.recipient) if each.action is Action.FAILED else f"{each.action}: {each.recipient}"
                for each in statuses(stored.item, progress, progress.notices, 86_400.0)
            ]
            self._outside.notices.setdefault(name, told)
            self._queue.tell(stored.item.id, progress.notices)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def courier(
    queue: Queue,
    outside: Outside,
    clock: Clock,
    schedule: Schedule | None = None,
    counters: Counters | None = None,
) -> AsyncIterator[Courier]:
    """A courier at work; it ends, with what it is doing, when the block ends."""
    with queue.lock("courier"), ThreadPoolExecutor(2) as disk, ThreadPoolExecutor(1) as notices:
        found = Courier(
            queue,
            outside,
            outside.notifier(queue),
            schedule or Schedule(5, 3600, 86_400),
            disk=disk,
            notices=notices,
            clock=clock,
            rng=random.Random(1),
            counters=counters,
        )
        found.recover()
        work = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            found.stop()
            await work
