"""The batch worker, with one thread: who is slow keeps nobody waiting, and every answer is its own request's."""

import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.batch_app import LONG
from tests.support.ports import LOOPBACK
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(1) as port:
        yield port


@contextlib.contextmanager
def serving(workers: int) -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.support.batch_app", str(workers)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
    assert process.returncode == 0


def request(path: str, body: bytes = b"", *fields: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


class Client:
    """One connection."""

    def __init__(self, port: int, receive: int = 0) -> None:
        """``receive``: how many octets the kernel may keep for this client."""
        self.socket = socket.socket()
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(20)
        self.socket.connect((LOOPBACK, port))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        """Read one answer: its status, its body."""
        status = int(self._file.readline().split()[1])
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, self._file.read(length)

    def ended(self) -> bool:
        """Whether the server hung up, and nothing else came."""
        with contextlib.suppress(ConnectionError):
            return self._file.read(1) == b""
        return True


def test_a_request_counts_when_it_is_whole_however_it_came(port: int) -> None:
    with Client(port) as client:
        for size in (0, 1, 5_000, 32_600, 32_768, 100_000):
            data = request("/", bytes(size))
            client.send(data)
            assert client.answer() == (200, b"%d" % size)
        data = request("/", b"hello")
        for octet in data:
            client.send(bytes((octet,)))
        assert client.answer() == (200, b"5")


def test_requests_sent_at_once_are_answered_in_their_order(port: int) -> None:
    with Client(port) as client:
        sizes = [3, 0, 40_000, 7, 20_000, 1]
        client.send(b"".join(request("/together" if size == 7 else "/", bytes(size)) for size in sizes))
        assert [client.answer()[1] for _ in sizes] == [b"1" if size == 7 else b"%d" % size for size in sizes]


def test_who_sends_slowly_or_reads_slowly_keeps_nobody_waiting(port: int) -> None:
    """The one thread there is has a client that does not read; others have sent half of what they announced."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(Client(port, receive=4_096))
        reader.send(request("/long"))
        half = [stack.enter_context(Client(port)) for _ in range(20)]
        for client in half:
            client.send(request("/", bytes(10_000))[:5_000])
        with Client(port) as client:
            for _ in range(50):
                client.send(request("/", b"hello"))
                assert client.answer() == (200, b"5")
        assert all(client.ended() for client in half), "their time is over"


def test_a_long_answer_arrives_whole(port: int) -> None:
    with Client(port) as client:
        for _ in range(2):
            client.send(request("/long"))
            assert client.answer() == (200, bytes(LONG))
        client.send(request("/", b"x"))
        assert client.answer() == (200, b"1")


def test_an_error_is_one_request_s(port: int) -> None:
    for path in ("/error", "/error-later"):
        with Client(port) as client, Client(port) as other:
            client.send(request(path))
            other.send(request("/together"))
            assert client.answer()[0] == 500
            assert client.ended()
            assert other.answer()[0] == 200


def test_what_was_not_read_of_a_small_body_is_no_request(port: int) -> None:
    with Client(port) as client:
        client.send(request("/unread", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") + request("/", b"abc"))
        assert [client.answer(), client.answer()] == [(200, b"unread"), (200, b"3")]


def test_a_client_that_asks_first_is_told_to_go_on(port: int) -> None:
    with Client(port) as client:
        whole = request("/", b"hello", "Expect: 100-continue")
        client.send(whole[:-5])
        assert client.answer() == (100, b"")
        client.send(b"hello")
        assert client.answer() == (200, b"5")


@pytest.mark.parametrize("fields", [("Connection: close",), ()])
def test_a_connection_ends_when_the_client_wants_that(port: int, fields: tuple[str, ...]) -> None:
    with Client(port) as client:
        client.send(request("/together", b"x", *fields, version="1.1" if fields else "1.0"))
        assert client.answer()[0] == 200
        assert client.ended()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n 5\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\n" + b"X: " + bytes(20_000) + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X: " + bytes(40_000) + b"\r\n\r\n",  # more than the main loop reads
    ],
)
def test_what_is_no_request_gets_an_error_and_the_end(port: int, data: bytes) -> None:
    with Client(port) as client:
        client.send(data)
        status, _ = client.answer()
        assert 400 <= status < 500
        assert client.ended()


@pytest.mark.parametrize("more", [b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_request_names_one_host(port: int, more: bytes) -> None:
    """RFC 9112 §3.2; the second kind of request has a thread of its own."""
    for version, hosts, good in (
        (b"1.1", 0, False),
        (b"1.1", 1, True),
        (b"1.1", 2, False),
        (b"1.0", 0, True),
        (b"1.0", 2, False),
    ):
        if version == b"1.0" and b"chunked" in more:
            continue
        with Client(port) as client:
            client.send(b"POST / HTTP/" + version + b"\r\n" + b"Host: x\r\n" * hosts + more)
            assert (client.answer()[0] == 200) == good, (version, hosts)


def test_what_is_no_request_is_refused_in_plain_text(port: int) -> None:
    with Client(port) as client:
        client.send(b"nonsense\r\n\r\n")
        assert client.answer() == (400, b"this is no HTTP request\n")
    with Client(port) as client:
        client.send(request("/error"))
        assert client.answer() == (500, b"the server could not complete this request\n")


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", request("/", b"x", "Connection: close"), request("/", version="1.0")]
)
def test_who_does_not_hang_up_after_his_last_answer_keeps_nobody_waiting(port: int, data: bytes) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(Client(port))
            client.send(data)
            client.answer()
        other = stack.enter_context(Client(port))
        other.send(request("/", b"hello"))
        assert other.answer() == (200, b"5")
    assert time.monotonic() - began < 30  # the server has two seconds for each, but not one after the other


def test_what_comes_at_the_same_time_is_finished_together(port: int) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(16)]

        def most() -> int:
            for client in clients:
                client.send(request("/together"))
            return max(int(client.answer()[1]) for client in clients)

        wait_until(lambda: most() > 1, 20, "two in a batch")


def test_connections_are_spread_over_the_workers() -> None:
    with serving(2) as port:

        def fewest() -> int:
            """How many of 16 connections the worker has that has the fewer; 0 when only one has any."""
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(Client(port)) for _ in range(16)]
                for client in clients:
                    client.send(request("/who"))
                counts = Counter(client.answer()[1] for client in clients)
            return min(counts.values()) if len(counts) == 2 else 0

        wait_until(lambda: fewest() >= 4, 20, "a quarter for each")  # once both are there
