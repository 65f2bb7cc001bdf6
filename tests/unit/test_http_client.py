"""HttpClient against a loopback server that answers wrongly, slowly, endlessly or not at all."""

import contextlib
import gzip
import socket
import ssl
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from stubmail import http_client, pace
from stubmail.errors import TemporaryError
from stubmail.http_client import PIECE, SEND_PIECE, Body, ConnectionLost, HttpClient
from tests.support.fakes import FakeResolver
from tests.support.http_server import Connection, Script, scripted
from tests.support.ports import LOOPBACK, free_port

HOST = "post.alpha.example"
TLS = Path(__file__).resolve().parents[1] / "data" / "tls"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def client(*addresses: str, timeout: float = 10.0, ca_file: str | None = None) -> HttpClient:
    return HttpClient(FakeResolver({HOST: list(addresses or (LOOPBACK,))}), timeout=timeout, ca_file=ca_file)


def answering(body: bytes = b"hello", *more: str, times: int = 1) -> Script:
    def script(connection: Connection) -> None:
        for _ in range(times):
            connection.read_request()
            connection.answer(body, "200 OK", "text/plain", *more)

    return script


def raw(*pieces: bytes) -> Script:
    """Answer one request with these octets, then close."""

    def script(connection: Connection) -> None:
        connection.read_request()
        for piece in pieces:
            connection.send(piece)

    return script


def endless(start: bytes, piece: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(start)
        connection.send_until_closed(piece)

    return script


def get(script: Script, *, max_size: int = 1000, timeout: float = 10.0) -> bytes:
    with scripted(script) as server, client(timeout=timeout).get(HOST, server.port, "/x") as answer:
        return answer.read(max_size)


def failure(script: Script, *, timeout: float = 10.0) -> TemporaryError:
    """The error that a GET of this answer ends in."""
    with pytest.raises(TemporaryError) as caught:
        get(script, timeout=timeout)
    return caught.value


# What is sent


def test_get_sends_each_header_once() -> None:
    with scripted(answering()) as server, client().get(HOST, server.port, "/pks/lookup?search=a%40b") as answer:
        assert answer.read(100) == b"hello"
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("GET", "/pks/lookup?search=a%40b")
    assert sorted(seen.headers) == [
        ("accept-encoding", "identity"),
        ("host", f"{HOST}:{server.port}"),
        ("user-agent", "stubmail"),
    ]


@pytest.mark.parametrize("body", [b"0123456789", Body([b"01234", b"", b"56789"])], ids=["bytes", "pieces"])
def test_post_sends_a_length_and_no_chunks(body: Body | bytes) -> None:
    with scripted(answering()) as server, client().post(HOST, server.port, "/p", body, "text/x") as answer:
        answer.read(100)
    (seen,) = server.seen
    assert seen.body == b"0123456789"
    assert seen.all("content-length") == ["10"]
    assert seen.all("content-type") == ["text/x"]
    assert seen.all("host") == [f"{HOST}:{server.port}"]
    assert not seen.all("transfer-encoding")


def test_a_large_piece_is_sent_in_small_ones() -> None:
    body = Body([b"a" * (2 * SEND_PIECE + 1), b"b"])
    assert [len(piece) for piece in body] == [SEND_PIECE, SEND_PIECE, 1, 1]
    assert len(body) == 2 * SEND_PIECE + 2
    assert b"".join(body) == b"".join(body), "it can be sent again"


def test_the_default_port_is_not_in_the_host_header(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def send(_: object, prepared: http_client.requests.PreparedRequest, **__: object) -> None:
        sent.append(f"{prepared.url} {prepared.headers['Host']}")
        raise http_client.requests.ConnectTimeout("no")

    monkeypatch.setattr(http_client._Adapter, "send", send)
    for port, tls in ((80, False), (443, True), (443, False)):
        with pytest.raises(TemporaryError):
            client("192.0.2.1", "2001:db8::1").get(HOST, port, "/", tls=tls)
        with pytest.raises(TemporaryError):
            HttpClient(FakeResolver({"::1": ["::1"]})).get("::1", port, "/", tls=tls)
    assert sent[0] == f"http://192.0.2.1:80/ {HOST}"
    assert f"http://192.0.2.1:443/ {HOST}:443" in sent
    assert f"https://192.0.2.1:443/ {HOST}" in sent
    assert "http://[::1]:443/ [::1]:443" in sent


def test_proxies_and_netrc_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"default login x password y\nmachine {LOOPBACK} login x password y\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://{LOOPBACK}:{free_port()}")
    with scripted(answering()) as server, client().get(HOST, server.port, "/") as answer:
        assert answer.status == 200
    assert not server.seen[0].all("authorization")


# Where it connects


def test_addresses_are_tried_in_turn() -> None:
    with scripted(answering()) as server, client("127.0.0.2", LOOPBACK).get(HOST, server.port, "/") as answer:
        assert answer.read(100) == b"hello"


def test_not_all_of_many_addresses_are_tried_when_each_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, http_client.TRY_SECONDS - 1, http_client.TRY_SECONDS])
    monkeypatch.setattr(http_client, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with scripted(answering()) as server, pytest.raises(TemporaryError, match="cannot reach"):
        client("127.0.0.2", "127.0.0.3", LOOPBACK).get(HOST, server.port, "/")
    assert server.seen == []


def test_a_body_goes_whole_to_the_first_address_that_can_be_reached() -> None:
    with (
        scripted(answering()) as server,
        client("127.0.0.2", LOOPBACK).post(HOST, server.port, "/", Body([b"12", b"34"]), "a/b") as answer,
    ):
        assert answer.status == 200
    assert [seen.body for seen in server.seen] == [b"1234"]


def test_only_addresses_of_our_own_resolver_are_used() -> None:
    resolver = FakeResolver({HOST: []})
    with pytest.raises(TemporaryError, match="has no address"):
        HttpClient(resolver).get(HOST, 80, "/")
    assert resolver.asked == [HOST]


def test_nobody_listens() -> None:
    with pytest.raises(TemporaryError) as caught:
        client().get(HOST, free_port(), "/")
    assert not isinstance(caught.value, ConnectionLost)
    assert caught.value.code == "4.4.1"
    assert caught.value.text.endswith("Connection refused")


# Connections


def test_a_connection_is_kept() -> None:
    http = client()
    with scripted(answering(times=3)) as server:
        for path in ("/1", "/2", "/3"):
            with http.get(HOST, server.port, path) as answer:
                assert answer.read(100) == b"hello"
        assert server.connections == 1
    assert [seen.target for seen in server.seen] == ["/1", "/2", "/3"]


def test_a_connection_with_unread_octets_is_not_kept() -> None:
    http = client()
    with scripted(answering(b"x" * 200_000), answering(b"next")) as server:
        with http.get(HOST, server.port, "/"):
            pass
        with http.get(HOST, server.port, "/") as answer:
            assert answer.read(100) == b"next"
    assert server.connections == 2


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    http = client()
    closed = threading.Event()

    def once(connection: Connection) -> None:
        answering()(connection)
        connection.close()
        closed.set()

    with scripted(once, answering(b"again")) as server:
        with http.get(HOST, server.port, "/") as answer:
            answer.read(100)
        assert closed.wait(30)
        with http.get(HOST, server.port, "/") as answer:
            assert answer.read(100) == b"again"


def test_threads_do_not_share_connections() -> None:
    http = client()
    bodies: list[bytes] = []

    def work() -> None:
        with http.get(HOST, server.port, "/") as answer:
            bodies.append(answer.read(100))

    with scripted(*[answering()] * 3) as server:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert bodies == [b"hello"] * 3
    assert server.connections == 3


# Broken off


def _eof(connection: Connection) -> None:
    connection.read_request()


def _reset(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


@pytest.mark.parametrize("script", [_eof, _reset], ids=["closed", "reset"])
def test_a_connection_lost_before_the_answer(script: Script) -> None:
    error = failure(script)
    assert isinstance(error, ConnectionLost)
    assert error.code == "4.4.2"


def test_a_body_is_not_offered_to_a_second_address_once_sent() -> None:
    body = Body([b"x" * 100])
    with scripted(_eof) as server, pytest.raises(ConnectionLost):
        client(LOOPBACK, "127.0.0.2").post(HOST, server.port, "/", body, "a/b")
    assert server.connections == 1


def test_silence_is_no_lost_connection() -> None:
    def silent(connection: Connection) -> None:
        connection.read_request()
        connection.wait_closed()

    error = failure(silent, timeout=0.05)
    assert (error.code, type(error)) == ("4.4.2", TemporaryError)


def test_a_peer_that_takes_no_body_is_no_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.05)
    done = threading.Event()

    def deaf(_: Connection) -> None:
        done.wait(30)

    with scripted(deaf) as server:
        with pytest.raises(TemporaryError) as caught:
            client().post(HOST, server.port, "/", Body([b"x" * 20_000_000]), "a/b")
        done.set()
    assert (caught.value.code, type(caught.value)) == ("4.4.2", TemporaryError)


def test_a_slow_peer_gets_a_large_body_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for a small piece of the body, not for all of it."""
    limits: list[float | None] = []
    original = pace._Connection.send

    def send(self: pace._Connection, data: object) -> None:
        limits.append(len(data))
        original(self, data)

    monkeypatch.setattr(pace._Connection, "send", send)
    body = b"x" * 1_000_000
    with scripted(answering()) as server, client().post(HOST, server.port, "/", body, "a/b") as answer:
        answer.read(100)
    assert server.seen[0].body == body
    assert max(size for size in limits if size) <= SEND_PIECE


def test_an_early_refusal_is_read_though_the_body_was_not() -> None:
    def refuse(connection: Connection) -> None:
        connection.read_head()
        connection.answer(b"{}", "413 Content Too Large", "application/json")

    with (
        scripted(refuse) as server,
        client().post(HOST, server.port, "/", Body([b"x" * 10_000_000]), "a/b") as answer,
    ):
        assert answer.status == 413


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("read", [0, 200_000])
def test_a_large_body_may_be_refused_or_lost_half_sent(tls: bool, read: int) -> None:
    """Over TLS too: what came before the peer hung up counts, and if nothing came, a connection was lost."""

    def refuse(connection: Connection) -> None:
        connection.read_some(read)
        connection.answer(b"{}", "413 Content Too Large", "application/json")

    def hang_up(connection: Connection) -> None:
        connection.read_some(read)

    http = client(ca_file=str(TLS / "ca.pem"))
    with scripted(hang_up, refuse, answering(), tls=_tls() if tls else None) as server:
        body = Body([b"x" * 10_000_000])
        with pytest.raises(ConnectionLost):
            http.post(HOST, server.port, "/", body, "a/b", tls=tls)
        with http.post(HOST, server.port, "/", body, "a/b", tls=tls) as answer:
            assert (answer.status, answer.read(10)) == (413, b"{}")
        with http.post(HOST, server.port, "/", body, "a/b", tls=tls) as answer:
            assert (answer.status, answer.read(10)) == (200, b"hello")
    assert len(server.seen[0].body) == len(body)


def test_where_one_kept_connection_was_lost_the_others_are_not_tried() -> None:
    """As behind a peer that was restarted, or a translator of addresses that forgets: what is kept is dead."""

    def play(sock: socket.socket, keep: bool) -> bool:
        """Answer one request; read another if the connection is kept, and tell whether one came."""
        with contextlib.closing(sock), contextlib.suppress(EOFError):
            sock.settimeout(10)
            connection = Connection(sock, [])
            answering()(connection)
            if keep:
                connection.read_head()
                return True
        return False

    def serve(listener: socket.socket) -> int:
        with ThreadPoolExecutor(3) as pool:
            plays = [pool.submit(play, listener.accept()[0], keep) for keep in (True, True, False)]
            return [each.result(10) for each in plays].count(True)

    http = client()
    with socket.create_server((LOOPBACK, 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)
        unanswered = pool.submit(serve, listener)
        port = listener.getsockname()[1]
        for answer in [http.get(HOST, port, "/") for _ in range(2)]:  # two connections, kept from here on
            with answer:
                answer.read(10)
        with pytest.raises(ConnectionLost):
            http.get(HOST, port, "/")
        with http.get(HOST, port, "/") as answer:
            assert answer.read(10) == b"hello"
        assert unanswered.result(10) == 1


# Wrong answers

BROKEN = {
    "garbage": b"\x00\x1b[31mgarbage\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "truncated": HEAD + b"Content-Length: 10\r\n\r\nabcd",
    "chunk size of letters": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabcd\r\n",
    "negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcd\r\n0\r\n\r\n",
    "truncated chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\nabcd",
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
    "too many headers": HEAD + b"a: b\r\n" * 1000 + b"\r\n",
    "endless status line": b"HTTP/1.1 200 " + b"x" * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_one_temporary_error(name: str) -> None:
    error = failure(raw(BROKEN[name]))
    assert (error.code, type(error)) == ("4.4.2", TemporaryError)
    assert error.text.isprintable()


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    assert get(raw(HEAD + b"\r\nabc", b"def")) == b"abcdef"


def test_a_chunked_answer() -> None:
    assert get(raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n\r\n")) == b"abcde"


def test_pieces_come_as_they_arrive() -> None:
    read = threading.Event()

    def halves(connection: Connection) -> None:
        raw(HEAD + b"Content-Length: 10\r\n\r\n", b"first")(connection)
        assert read.wait(30)
        connection.send(b"other")

    with scripted(halves) as server, client().get(HOST, server.port, "/") as answer:
        pieces = answer.pieces()
        assert next(pieces) == b"first"
        read.set()
        assert b"".join(pieces) == b"other"


def test_a_redirect_is_not_followed_and_its_body_not_read() -> None:
    location = b"Location: http://127.0.0.1:1/elsewhere\r\n"
    sent: list[int] = []

    def redirect(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 302 Found\r\n" + location + b"Content-Length: 67108864\r\n\r\n")
        sent.append(connection.send_until_closed(b"x" * PIECE))

    with scripted(redirect) as server, client().get(HOST, server.port, "/") as answer:
        assert answer.status == 302
    assert server.connections == 1
    assert sent[0] < 2**25, "only what fits into the sockets' buffers"


def test_a_redirect_to_nonsense() -> None:
    with (
        scripted(raw(b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe\r\nContent-Length: 0\r\n\r\n")) as server,
        client().get(HOST, server.port, "/") as answer,
    ):
        assert answer.status == 302


def test_a_compressed_answer_stays_compressed() -> None:
    bomb = gzip.compress(bytes(1_000_000))
    assert get(answering(bomb, "Content-Encoding: gzip"), max_size=len(bomb)) == bomb


def test_the_type_is_read_without_its_parameters() -> None:
    def typed(connection: Connection) -> None:
        connection.read_request()
        connection.answer(b"", "200 OK", "Application/JSON ; charset=utf-8")

    with scripted(typed) as server, client().get(HOST, server.port, "/") as answer:
        assert answer.media_type == "application/json"


def test_cookies_are_not_kept() -> None:
    http = client()
    with scripted(answering(b"", "Set-Cookie: a=b; Path=/", times=2)) as server:
        for _ in range(2):
            with http.get(HOST, server.port, "/") as answer:
                answer.read(0)
    assert not server.seen[1].all("cookie")


# Endless and slow answers


def test_an_endless_answer_is_cut_off_at_the_limit() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemporaryError, match="over 100000 octets"):
            get(endless(HEAD + b"\r\n", b"x" * PIECE), max_size=100_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"trailer: x\r\n" * 1000),
    ],
    ids=["interim answers", "trailers"],
)
def test_an_answer_that_is_all_overhead_ends(start: bytes, piece: bytes) -> None:
    error = failure(endless(start, piece))
    assert error.text.endswith("the answer has too much around its content")


@pytest.mark.parametrize("start", [b"", HEAD + b"Content-Length: 10000000\r\n\r\n"], ids=["head", "body"])
def test_an_answer_that_trickles_ends(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait is short enough for the timeout; together they are too long for what came."""
    looks = count(step=100)  # seconds pass between any two looks at the clock
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    with pytest.raises(TemporaryError) as caught:
        get(endless(start, b"x"), max_size=10_000_000)
    assert caught.value.code == "4.4.2"
    assert caught.value.text.endswith("the answer comes too slowly")


# TLS


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    return context


def test_tls_verifies_the_name_not_the_address() -> None:
    http = client(ca_file=str(TLS / "ca.pem"))
    with scripted(answering(times=2), tls=_tls()) as server:
        for _ in range(2):
            with http.get(HOST, server.port, "/", tls=True) as answer:
                assert answer.read(100) == b"hello"
        assert server.connections == 1


def test_tls_with_another_name_is_refused() -> None:
    http = client(ca_file=str(TLS / "ca.pem"))

    def unasked(connection: Connection) -> None:
        connection.wait_closed()

    with scripted(unasked, tls=_tls()) as server, pytest.raises(TemporaryError) as caught:
        http.get("post.beta.example", server.port, "/", tls=True)
    assert caught.value.code == "4.4.1"
    assert "doesn't match" in caught.value.text
    assert not server.seen


def test_tls_from_an_unknown_authority_is_refused() -> None:
    with scripted(answering(), tls=_tls()) as server, pytest.raises(TemporaryError, match="certificate verify failed"):
        client().get(HOST, server.port, "/", tls=True)
    assert not server.seen


def test_tls_spoken_to_a_plain_server() -> None:
    def plain(connection: Connection) -> None:
        connection.send(b"220 not TLS\r\n")
        connection.wait_closed()

    with scripted(plain) as server, pytest.raises(TemporaryError) as caught:
        client(ca_file=str(TLS / "ca.pem")).get(HOST, server.port, "/", tls=True)
    assert caught.value.code == "4.4.1"


def test_connections_of_many_tls_hosts_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    http = client()
    monkeypatch.setattr(http_client, "MAX_TLS_HOSTS", 3)
    closed: list[str] = []
    monkeypatch.setattr(http_client._Adapter, "close", lambda self: closed.append(self._tls_host))
    for number in range(6):
        http._adapter(f"{number}.example")
    assert closed == ["0.example", "1.example"]
