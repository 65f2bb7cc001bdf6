"""The CGI entry under lighttpd and Apache, as docs/cgi configures them, from the first call to the daemon's end."""

import contextlib
import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.post_manager.udp import daemon
from stubmail.address import Address
from stubmail.datagram import Waiting, answer_from_wire, check_to_wire
from stubmail.discovery import Store
from stubmail.errors import TemporaryError
from stubmail.frames import LAST, WITHDRAWN, Frame
from stubmail.http_client import HttpClient
from stubmail.openpgp import Certificate, split
from stubmail.store_client import NewPost, StoreClient
from tests.support.fakes import FakeResolver
from tests.support.keys import make_identity
from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, HOST, Person, code, multipart
from tests.support.waiting import wait_until
from tests.support.web_servers import KINDS, URL, WebStore, web_store

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
EMPTY = multipart([("request", b"{}"), ("mac", b"")])  # refused, once the program runs
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module", params=["lighttpd", "apache"])
def store(request: pytest.FixtureRequest) -> Iterator[WebStore]:
    with web_store(KINDS[request.param], [ALICE]) as store:
        yield store


@pytest.fixture(params=["lighttpd", "apache", "apache-prefork"])
def fresh(request: pytest.FixtureRequest) -> Iterator[WebStore]:
    """One that nobody has called yet."""
    with web_store(KINDS[request.param], [ALICE]) as store:
        yield store


def client_of(store: WebStore, person: Person) -> StoreClient:
    http = HttpClient(FakeResolver({HOST: [LOOPBACK]}))  # type: ignore[arg-type]  # what it needs of a resolver
    place = Store(HOST, store.http, URL.removeprefix("/"))
    return StoreClient(http, place, make_identity(person.key), Address.parse(person.address))


def fetched(client: StoreClient, *wanted: tuple[bytes, int]) -> list[tuple[Frame, bytes]]:
    posts: list[tuple[Frame, bytes]] = []
    for event in client.fetch(wanted):
        if isinstance(event, Frame):
            posts.append((event, b""))
        else:
            posts[-1] = posts[-1][0], posts[-1][1] + event
    return [post for post in posts if post[0].state != LAST]


def check(store: WebStore, client: StoreClient) -> int:
    """How many posts wait, by UDP."""
    session, nonce = client.session, os.urandom(16)
    data = store.datagram(check_to_wire(session.cookie, nonce, session.cookie_key))
    assert data is not None
    answer = answer_from_wire(data, nonce, session.cookie_key)
    assert isinstance(answer, Waiting)
    return answer.count


def test_the_whole_life_of_posts(store: WebStore) -> None:
    alice, bob = client_of(store, ALICE), client_of(store, BOB)
    texts = [b"Subject: one\r\n\r\nbody\r\n", os.urandom(20_000_000), b"Subject: three\r\n\r\nbody\r\n"]
    recipient = Certificate.parse(BOB.certificate)
    sealed = [split(make_identity(ALICE.key).seal(text, [recipient])) for text in texts]
    to = Address.parse(BOB.address)
    posts = [NewPost(secrets.token_bytes(16), BOB.fingerprint, to, heads[0], body) for heads, body in sealed]
    assert {result.state for result in alice.store(posts)} == {"stored"}
    store.learn_udp()
    assert check(store, bob) == 3
    assert [result.state for result in alice.withdraw([posts[2].id])] == ["withdrawn"]
    listed = bob.list([ALICE.fingerprint]).posts
    assert [post.id for post in listed] == [post.id for post in posts[:2]]
    cut = 5_000_000
    whole, rest, gone = fetched(bob, (posts[0].id, 0), (posts[1].id, cut), (posts[2].id, 0))
    assert (rest[0].offset, rest[1]) == (cut, (posts[1].head + posts[1].body)[cut:])
    assert gone[0].state == WITHDRAWN
    opened = make_identity(BOB.key).unseal(whole[1], lambda _: Certificate.parse(ALICE.certificate), 10_000)
    assert (opened.data, opened.signer) == (texts[0], ALICE.fingerprint)
    bob.ack([post.id for post in listed])
    assert [post.state for post in alice.outbox().posts] == ["fetched", "fetched", "withdrawn"]
    assert check(store, bob) == 0
    assert store.daemons() == [int((store.spool / daemon.LOCK).read_text())]


def test_what_a_web_server_makes_of_header_fields(store: WebStore) -> None:
    answer = store.post(EMPTY)
    assert (answer.status_code, code(answer)) == (400, "malformed")
    assert answer.headers.get_all("Content-Length", [str(len(answer.data))]) == [str(len(answer.data))]
    assert "Status" not in answer.headers
    refused = store.request("GET", URL)
    assert (refused.status_code, code(refused), refused.headers["Allow"]) == (405, "method", "POST")
    assert code(store.request("POST", URL, EMPTY, Content_Type="text/plain")) == "media-type"
    # Neither the query, which becomes arguments of the program (RFC 3875 §4.4), nor what names a proxy matters.
    for url in (f"{URL}?--help", f"{URL}?-c+print(1)"):
        assert code(store.request("POST", url, EMPTY, Content_Type=TYPE, Proxy="http://192.0.2.1:1")) == "malformed"
    strange = store.request("POST", URL, EMPTY, Content_Type=TYPE, X_Forwarded_Proto="https", Cookie="a=b")
    assert code(strange) == "malformed"


def test_a_body_without_a_length_or_over_the_limit_is_refused(store: WebStore) -> None:
    with socket.create_connection((LOOPBACK, store.http), timeout=30) as client:
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {TYPE}\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    # lighttpd takes the whole body, finds out how long it is, and says so: then it is the body that is refused.
    assert answer.split()[1] in (b"411", b"400")
    with socket.create_connection((LOOPBACK, store.http), timeout=30) as client:
        client.sendall(f"{head}Content-Length: {2**30}\r\n\r\n".encode())
        assert client.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_in_the_middle_of_an_answer_leaves_nothing_behind(store: WebStore) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    post_id, _ = alice.keep(BOB, os.urandom(8_000_000))
    body = bob.body(json.dumps(bob.request("fetch", {"posts": [{"id": post_id.hex(), "offset": 0}]})).encode())
    with socket.create_connection((LOOPBACK, store.http), timeout=30) as client:
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: not store.calls(), 30, "the end of the call")
    assert "Traceback" not in store.text()
    bob.ack(post_id)


def test_calls_that_race_start_one_daemon_which_owes_the_web_server_nothing(fresh: WebStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: fresh.post(EMPTY), range(16)))  # each returns: nobody holds its pipes open
    assert {code(answer) for answer in answers} == {"malformed"}
    [first] = fresh.daemons()
    fresh.learn_udp()
    assert fresh.udp_log().count("listening") == 1
    assert int((fresh.spool / daemon.LOCK).read_text()) == first

    environ = Path(f"/proc/{first}/environ").read_bytes()
    assert b"STUB_CONF=" in environ
    for name in (b"HTTP_", b"REMOTE_", b"CONTENT_", b"SERVER_", b"GATEWAY_"):
        assert name not in environ
    assert os.getsid(first) == first
    theirs = {target for pid in fresh.workers() for target in open_files(pid)}
    assert not {target for target in open_files(first) & theirs if target.startswith(("socket:", "pipe:"))}

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not daemon.runs(fresh.spool), what="its death")
    fresh.post(EMPTY)
    [second] = fresh.daemons()
    assert second != first

    bob = fresh.talker(BOB)
    fresh.end(signal.SIGTERM)
    fresh.udp = 0
    wait_until(lambda: fresh.udp_log().count("listening") == 2, 30, "the second daemon")
    fresh.udp = int(fresh.udp_log().rpartition("listening address=127.0.0.1:")[2].split()[0])
    assert fresh.check(bob) == Waiting(0, 0)  # the web server has gone


def open_files(pid: int) -> set[str]:
    """What a process has open: paths, and sockets and pipes by their inodes."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a call that has just ended
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(entry.readlink()))
    return found


@pytest.mark.parametrize("fresh", ["apache"], indirect=True)
def test_an_admin_stops_the_daemon_and_can_do_without(fresh: WebStore) -> None:
    assert "no UDP process" in fresh.run("cgi-stop").stdout.decode()
    fresh.post(EMPTY)
    [first] = fresh.daemons()
    stopped = fresh.run("cgi-stop")
    assert (stopped.returncode, stopped.stdout.decode()) == (0, f"process {first} has ended\n")
    assert fresh.daemons() == []
    fresh.post(EMPTY)
    [second] = fresh.daemons()
    fresh.config.write_text(fresh.config.read_text() + "udp = false\n")
    assert code(fresh.post(EMPTY)) == "malformed"
    wait_until(lambda: not daemon.runs(fresh.spool), 30, "the end of the daemon")
    assert f"stopped pid={second}" in fresh.text()
    fresh.post(EMPTY)
    assert fresh.daemons() == []


@pytest.mark.parametrize("fresh", ["lighttpd", "apache"], indirect=True)
def test_a_spool_of_another_user_is_refused_and_the_log_says_what_to_do(fresh: WebStore) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    fresh.spool.mkdir(mode=0o700)
    os.chown(fresh.spool, 12345, 12345)
    answer = fresh.post(EMPTY)
    assert (answer.status_code, code(answer)) == (503, "unavailable")
    assert "not set up" in answer.get_json()["message"]
    assert str(fresh.spool) not in answer.data.decode()
    [line] = [line for line in fresh.text().splitlines() if "belongs to user" in line]
    for word in (str(fresh.spool), "but this process runs as", "chown -R"):
        assert word in line
    with pytest.raises(TemporaryError, match="not set up"):
        client_of(fresh, BOB).open()
    assert fresh.daemons() == []
