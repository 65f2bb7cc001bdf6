"""The admin listener: what it answers, and that slow, hostile and many clients are bounded."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from stubmail import admin, wsgi
from stubmail.admin import Admin, Answer, Page, Readiness
from tests.support.waiting import wait_until


class Pages(dict[str, Page]):
    """Pages that a test may replace while they are served."""


@pytest.fixture
def pages() -> Pages:
    return Pages({"/metrics": lambda: Answer(200, b"x 1\n", "text/plain")})


@pytest.fixture
def port(pages: Pages) -> Iterator[int]:
    with wsgi.bind("127.0.0.1", 0) as listener:
        server = Admin(listener, {"/readyz": lambda: pages["/readyz"](), "/metrics": lambda: pages["/metrics"]()})
        server.start()
        yield int(listener.getsockname()[1])
        server.stop()


def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request; return status, header and body of the answer, which must be the last on its connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        data = b""
        while piece := client.recv(65_536):
            data += piece
    header, _, body = data.partition(b"\r\n\r\n")
    first, *lines = header.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    return ask(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_it_answers_what_it_has(port: int) -> None:
    status, header, body = get(port, "/metrics?name=x")
    assert (status, header["Content-Type"], body) == (200, "text/plain", b"x 1\n")
    assert header["Content-Length"] == "4"
    status, header, body = get(port, "/livez")
    assert (status, json.loads(body)) == (200, {"status": "alive"})
    status, header, body = get(port, "/metrics", "HEAD")
    assert (status, header["Content-Length"], body) == (200, "4", b"")


def test_what_it_does_not_have_is_refused(port: int) -> None:
    status, _, body = get(port, "/etc/passwd")
    assert (status, json.loads(body)["pages"]) == (404, ["/livez", "/metrics", "/readyz"])
    status, header, _ = get(port, "/metrics", "POST")
    assert (status, header["Allow"]) == (405, "GET, HEAD")
    for line in (b"GET /metrics", b"\x16\x03\x01\xff\xff", b"GET / HTTP/2.0", b"a b c d HTTP/1.1"):
        assert ask(port, line + b"\r\n\r\n")[0] == 400


def test_readiness_names_each_probe_and_what_is_wrong(
    port: int, pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    wrong = {"database": "", "disk": ""}
    pages["/readyz"] = Readiness({name: lambda name=name: wrong[name] for name in wrong})  # type: ignore[misc]
    status, _, body = get(port, "/readyz")
    assert (status, json.loads(body)) == (200, {"status": "ready", "checks": {"database": "ok", "disk": "ok"}})
    wrong["disk"] = "no room"
    for _ in range(3):
        status, _, body = get(port, "/readyz")
        checks = {"database": "ok", "disk": "no room"}
        assert (status, json.loads(body)) == (503, {"status": "not ready", "checks": checks})
    wrong["disk"] = ""
    assert get(port, "/readyz")[0] == 200
    assert [record.getMessage() for record in caplog.records] == ['- unready disk="no room"', "- ready"]


def test_a_page_that_hangs_holds_up_no_other_and_no_thread_for_each_client(
    port: int, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "PAGE_SECONDS", 0.5)
    go_on = threading.Event()
    calls: list[int] = []

    def hanging() -> Answer:
        calls.append(1)
        go_on.wait(30)
        return Answer(200, b"late")

    pages["/readyz"] = hanging
    try:
        for _ in range(3):
            status, _, body = get(port, "/readyz")
            assert (status, b"no answer within" in body) == (503, True)
            assert get(port, "/livez")[0] == 200
            assert get(port, "/metrics")[0] == 200
        assert len(calls) == 1
    finally:
        go_on.set()
    wait_until(lambda: get(port, "/readyz")[2] == b"late")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_page_that_fails_is_a_500_and_the_next_one_is_tried(port: int, pages: Pages) -> None:
    assert get(port, "/readyz")[0] == 500  # there is none yet: KeyError
    wait_until(lambda: not any(thread.name == "admin /readyz" for thread in threading.enumerate()))
    pages["/readyz"] = lambda: Answer(200, b"")
    assert get(port, "/readyz")[0] == 200


@pytest.mark.parametrize("octets", [8_300, 100_000, 900_000])
def test_a_header_that_is_too_large_is_refused(port: int, octets: int) -> None:
    request = b"GET /livez HTTP/1.1\r\nX: " + b"x" * octets + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"may have 8192 octets" in answer
    assert get(port, "/livez")[0] == 200


def test_a_header_without_end_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client, contextlib.suppress(ConnectionError):
        for _ in range(1000):
            client.sendall(b"x" * 100_000)
        raise AssertionError("it was not")
    assert get(port, "/livez")[0] == 200


def test_those_who_keep_silent_longest_make_room(port: int) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(admin.MAX_CONNECTIONS * 3)
        ]
        for _ in range(3):
            assert get(port, "/livez")[0] == 200
        assert all(client.recv(1) == b"" for client in silent[: admin.MAX_CONNECTIONS])
        silent[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200 ")


def test_clients_that_wait_for_their_pages_are_bounded() -> None:
    go_on = threading.Event()

    def waiting() -> Answer:
        go_on.wait(30)
        return Answer(200, b"")

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(wsgi.bind("127.0.0.1", 0))
        server = Admin(listener, {"/metrics": waiting})
        server.start()
        stack.callback(server.stop)
        stack.callback(go_on.set)
        clients = [stack.enter_context(asking(listener)) for _ in range(admin.MAX_CONNECTIONS)]
        wait_until(lambda: len(server._connections) == admin.MAX_CONNECTIONS and not server._silent)
        with asking(listener) as other, contextlib.suppress(ConnectionResetError):
            assert other.recv(100) == b""
        go_on.set()
        assert clients[0].recv(100).startswith(b"HTTP/1.1 200 ")


def asking(listener: socket.socket) -> socket.socket:
    """Ask for a page."""
    client = socket.create_connection(listener.getsockname(), timeout=30)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


def test_slow_clients_are_disconnected_and_many_are_turned_away(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(admin.MAX_CONNECTIONS * 2)
        ]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /livez HTTP/1.1\r\n")
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
    wait_until(lambda: get(port, "/livez")[0] == 200)


def test_a_client_that_does_not_read_is_disconnected(port: int, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.3)
    pages["/metrics"] = lambda: Answer(200, bytes(20_000_000))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 10, "a reset")


def test_stopping_ends_connections_too_after_a_while(pages: Pages) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hanging() -> Answer:
        asked.set()
        go_on.wait(30)
        return Answer(200, b"")

    pages["/metrics"] = hanging
    with wsgi.bind("127.0.0.1", 0) as listener:
        server = Admin(listener, pages)
        server.start()
        port = int(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert asked.wait(30)
            server.stop()
            go_on.set()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""


def test_who_was_let_in_a_moment_before_it_stops_is_answered(pages: Pages) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go_on.wait(30)

    with wsgi.bind("127.0.0.1", 0) as listener:
        server = Admin(listener, pages)
        server.start()
        assert get(listener.getsockname()[1], "/livez")[0] == 200
        server._loop.call_soon_threadsafe(hold)
        assert busy.wait(30)
        with socket.create_connection(listener.getsockname(), timeout=30) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            server._loop.call_soon_threadsafe(server._stopped.set)  # it finds both at the same time
            go_on.set()
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        server.stop()
