"""Who gets in: each check refuses with its own code and counter, in the order of protocol.md §4.3, before dear work."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.post_manager.http.rate import BURST_SECONDS, Buckets
from stubmail.request import MAX_REQUEST, mac
from tests.support.store import HOST, NOW, URL, Person, Store, Talker, code, multipart, running_store

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
MALLORY = Person("mallory@evil.example")

LIST: dict[str, Any] = {"senders": [], "after": 0, "limit": 1}


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE], database=database_url) as store:
        yield store


@pytest.fixture
def bob(store: Store) -> Talker:
    return store.talker(BOB)


def send_list(talker: Talker, secret: bytes | None = None, **spoil: Any) -> str:
    """Send a list request; return "ok" or the refusal's code. With ``secret`` the MAC is made under that."""
    octets = json.dumps(talker.request("list", LIST) | spoil).encode()
    body = multipart([("request", octets), ("mac", mac(secret, octets))]) if secret else talker.body(octets)
    response = talker.store.post(body)
    return "ok" if response.status_code == 200 else code(response)


def test_an_authentic_request_is_answered(bob: Talker) -> None:
    assert send_list(bob) == "ok"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_only_post_is_understood(store: Store, method: str, url: str) -> None:
    response = store.http.open(url, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert method == "HEAD" or code(response) == "method"
    assert store.counters["refused method"] == 1


@pytest.mark.parametrize("url", ["/", "/post_manager/x", "/post_managers", "/static/x"])
def test_no_other_url_is_there(store: Store, url: str) -> None:
    for method in ("GET", "POST"):
        response = store.http.open(url, method=method)
        assert (response.status_code, response.content_type) == (404, "application/json")


def test_the_url_may_end_in_a_slash(bob: Talker) -> None:
    octets = json.dumps(bob.request("list", LIST)).encode()
    content_type = "multipart/form-data; boundary=0123456789abcdef"
    assert bob.store.http.post(URL + "/", data=bob.body(octets), content_type=content_type).status_code == 200


def test_header_checks_come_first(store: Store) -> None:
    body = multipart([("request", b"{")])
    assert code(store.post(body, "application/json")) == "media-type"
    assert code(store.post(body, "multipart/form-data")) == "media-type"
    for options in ({"content_length": None}, {"headers": {"Transfer-Encoding": "chunked"}}):
        environ = {"CONTENT_LENGTH": ""} if "content_length" in options else {}
        response = store.post(body, environ_overrides=environ, **{k: v for k, v in options.items() if v})
        assert code(response) == "length-required"
    response = store.post(body, environ_overrides={"CONTENT_LENGTH": str(store.section.max_request + 1)})
    assert (code(response), response.status_code) == ("too-large", 413)
    assert code(store.post(body)) == "malformed"
    assert store.counters["refused media-type"] == 2


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [("request", b"{}")],
        [("mac", b""), ("request", b"{}")],
        [("request", b"[]"), ("mac", b"")],
        [("request", b"{"), ("mac", b"")],
        [("request", b'{"version": 1, "version": 1}'), ("mac", b"")],
        [("request", b"\xff"), ("mac", b"")],
        [("request", b"[" * 100_000), ("mac", b"")],
    ],
)
def test_what_is_no_request_is_malformed(store: Store, parts: list[tuple[str, bytes]]) -> None:
    response = store.post(multipart(parts))
    assert (code(response), response.status_code) == ("malformed", 400)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ({"version": 2}, "version"),
        ({"version": "1"}, "malformed"),
        ({"op": "steal"}, "operation"),
        ({"op": None}, "malformed"),
        ({"nonce": "x"}, "malformed"),
        ({"time": -1}, "malformed"),
        ({"time": 1.5}, "malformed"),
        ({"time": True}, "malformed"),
        ({"parts": [{"sha256": "0" * 64, "size": 1}]}, "malformed"),
        ({"parts": {}}, "malformed"),
        ({"session": "0" * 31}, "malformed"),
        ({"senders": ["x"]}, "malformed"),
        ({"senders": ["A" * 40] * 4001}, "malformed"),
        ({"limit": 0}, "malformed"),
        ({"limit": 1001}, "malformed"),
        ({"after": 2**63}, "malformed"),
        ({"host": "evil.example"}, "wrong-host"),
        ({"host": HOST.upper()}, "malformed"),
        ({"time": NOW + 301}, "clock-skew"),
        ({"time": NOW - 301}, "clock-skew"),
        ({"time": NOW + 300}, "ok"),
        ({"time": NOW - 300}, "ok"),
        ({"session": "0" * 32}, "session"),
        ({"unknown": ["members", "are", "ignored"]}, "ok"),
    ],
)
def test_every_member_is_checked(bob: Talker, spoil: dict[str, Any], expected: str) -> None:
    assert send_list(bob, **spoil) == expected
    assert expected == "ok" or bob.store.counters[f"refused {expected}"] == 1


def test_clock_skew_says_by_how_much(bob: Talker) -> None:
    for off, text in ((1000, "1000 seconds fast"), (-1000, "1000 seconds slow")):
        response = bob.send("list", LIST, time=NOW + off)
        assert text in response.get_json()["message"]
        assert (response.status_code, response.get_json()["time"]) == (403, NOW)


def test_a_replay_is_refused_and_a_nonce_belongs_to_its_client(bob: Talker) -> None:
    alice = bob.store.talker(ALICE)
    nonce = secrets.token_hex(16)
    assert send_list(bob, nonce=nonce) == "ok"
    assert send_list(bob, nonce=nonce) == "replayed"
    assert send_list(alice, nonce=nonce) == "ok"
    bob.store.clock.now += 600  # a replay of what came first fails by its time, if not by its nonce
    assert send_list(bob, nonce=nonce, time=NOW) == "clock-skew"


def test_nobody_burns_anothers_nonce(bob: Talker) -> None:
    nonce = secrets.token_hex(16)
    assert send_list(bob, secret=bytes(32), nonce=nonce) == "mac"
    assert send_list(bob, nonce=nonce) == "ok"


def test_a_replayed_open_is_refused(store: Store) -> None:
    nonce = secrets.token_hex(16)
    assert Talker(store, BOB).open(nonce=nonce).status_code == 200
    assert code(Talker(store, BOB).open(nonce=nonce)) == "replayed"
    assert Talker(store, ALICE).open(nonce=nonce).status_code == 200


def test_the_cheap_checks_come_before_the_dear_ones(bob: Talker) -> None:
    """Everything is wrong at once; what is put right one after the other shows the order."""
    clock = bob.store.clock
    nonce = secrets.token_hex(16)
    assert send_list(bob, nonce=nonce) == "ok"
    wrong: dict[str, Any] = {"host": "evil.example", "time": NOW + 999, "nonce": nonce, "session": "0" * 32}
    assert send_list(bob, version=2, secret=bytes(32), **wrong) == "version"
    assert send_list(bob, secret=bytes(32), **wrong) == "wrong-host"
    assert send_list(bob, secret=bytes(32), **wrong | {"host": HOST}) == "clock-skew"
    assert send_list(bob, secret=bytes(32), session=bob.session["session"], nonce=nonce) == "replayed"
    clock.now += 1
    assert send_list(bob, secret=bytes(32), session="0" * 32) == "session"
    assert send_list(bob, secret=bytes(32)) == "mac"
    assert send_list(bob, secret=bytes(32), limit=0) == "mac"  # before the operation's own members are looked at


def test_sessions_end(bob: Talker) -> None:
    assert bob.session["expires"] == NOW + 3600
    bob.store.clock.now = NOW + 3599
    assert send_list(bob) == "ok"
    bob.store.clock.now = NOW + 3600
    assert send_list(bob) == "session"


def test_a_session_is_of_no_use_without_its_secret(bob: Talker) -> None:
    alice = bob.store.talker(ALICE)
    assert send_list(alice, session=bob.session["session"]) == "mac"


def test_an_open_answers_what_only_the_certificates_owner_can_read(store: Store) -> None:
    talker = Talker(store, BOB)
    nonce = secrets.token_hex(16)
    response = talker.open(nonce=nonce)
    assert (response.status_code, response.content_type) == (200, "application/octet-stream")
    assert len(response.data) <= 16_384
    session = talker.session
    assert (session["version"], session["host"], session["nonce"]) == (1, HOST, nonce)
    assert [len(session[name]) for name in ("session", "secret", "cookie", "cookie_key")] == [32, 64, 32, 64]
    assert session["secret"].encode() not in response.data
    assert bytes.fromhex(session["secret"]) not in response.data
    assert session["max_post"] == 0
    assert store.talker(ALICE).session["max_post"] == store.section.max_post


def open_with(store: Store, certificate: bytes = BOB.certificate, signer: Person = BOB, **spoil: Any) -> str:
    talker = Talker(store, BOB)
    data = talker.request("open", {}, [certificate]) | {"fingerprint": BOB.fingerprint, "address": BOB.address}
    data.pop("session")
    octets = json.dumps(data | spoil).encode()
    parts = [("request", octets), ("signature", signer.sign(octets)), ("certificate", certificate)]
    response = store.post(multipart(parts))
    return "ok" if response.status_code == 200 else code(response)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ({}, "ok"),
        ({"address": BOB.address.upper()}, "ok"),
        ({"address": "alice@alpha.example"}, "certificate"),
        ({"address": "nobody"}, "malformed"),
        ({"fingerprint": ALICE.fingerprint}, "certificate"),
        ({"fingerprint": BOB.fingerprint[-16:]}, "malformed"),
        ({"fingerprint": BOB.fingerprint.lower()}, "malformed"),
        ({"certificate": b"nonsense"}, "certificate"),
        ({"certificate": BOB.certificate + ALICE.certificate}, "certificate"),
        ({"certificate": bytes(BOB.key)}, "certificate"),
        ({"certificate": MALLORY.certificate}, "certificate"),
        ({"certificate": bytes(65_537)}, "too-large"),
        ({"signer": MALLORY}, "signature"),
        ({"parts": []}, "malformed"),
        ({"parts": [{"sha256": "0" * 64, "size": len(BOB.certificate)}]}, "digest"),
    ],
)
def test_an_open_needs_a_certificate_its_key_and_an_address(store: Store, spoil: dict[str, Any], expected: str) -> None:
    assert open_with(store, **spoil) == expected


def test_a_signature_that_is_none_is_refused(store: Store) -> None:
    talker = Talker(store, BOB)
    data = talker.request("open", {}, [BOB.certificate]) | {"fingerprint": BOB.fingerprint, "address": BOB.address}
    octets = json.dumps(data).encode()
    for signature in (b"", b"nonsense", BOB.sign(octets + b" "), BOB.sign(octets) * 2):
        parts = [("request", octets), ("signature", signature), ("certificate", BOB.certificate)]
        assert code(store.post(multipart(parts))) == "signature"
    parts = [("request", octets), ("signature", bytes(16_385)), ("certificate", BOB.certificate)]
    assert code(store.post(multipart(parts))) == "too-large"
    assert code(store.post(multipart([("request", octets), ("mac", bytes(32))]))) == "malformed"


def test_a_large_request_part_is_refused(bob: Talker) -> None:
    assert send_list(bob, padding="x" * MAX_REQUEST) == "too-large"
    response = bob.store.post(multipart([("request", bytes(MAX_REQUEST + 1))]))
    assert code(response) == "too-large"


def test_further_parts_where_none_belong_are_malformed(bob: Talker) -> None:
    octets = json.dumps(bob.request("list", LIST)).encode()
    assert code(bob.store.post(bob.body(octets, [b"more"]))) == "malformed"


def test_rates_are_per_network_and_per_client(tmp_path: Path) -> None:
    with running_store(tmp_path, [ALICE], rate_network=2, rate_client=1) as store:
        bob, alice = store.talker(BOB), store.talker(ALICE)

        def ask(talker: Talker, address: str) -> str:
            octets = json.dumps(talker.request("list", LIST)).encode()
            response = store.post(talker.body(octets), environ_overrides={"REMOTE_ADDR": address})
            if response.status_code == 200:
                return "ok"
            seconds = int(response.headers["Retry-After"])
            assert seconds >= 1
            word = "1 second" if seconds == 1 else f"{seconds} seconds"
            assert response.get_json()["message"].endswith(f"; try again in {word}")
            return code(response)

        burst = BURST_SECONDS
        assert [ask(bob, f"2001:db8:{number:x}::1") for number in range(burst + 1)] == ["ok"] * burst + ["rate"]
        assert ask(alice, "2001:db8:1::1") == "ok"
        # She has an account, whose rate goes over all her sessions: opening this one counts as well.
        assert [ask(alice, "192.0.2.1") for _ in range(burst)] == ["ok"] * (burst - 2) + ["rate"] * 2
        store.clock.now += 3
        assert ask(bob, "192.0.2.7") == "ok"
        # One /64 is one peer, and what is refused counts as well.
        answers = [send_from(store, f"2001:db8:ffff::{number:x}") for number in range(2 * burst + 3)]
        assert answers == ["session"] * 2 * burst + ["rate"] * 3
        assert store.counters["refused rate"] == 6


def send_from(store: Store, address: str) -> str:
    octets = json.dumps(Talker(store, MALLORY).request("list", LIST)).encode()
    body = multipart([("request", octets), ("mac", bytes(32))])
    return code(store.post(body, environ_overrides={"REMOTE_ADDR": address}))


def test_bogus_requests_use_up_nobody_elses_rate(tmp_path: Path) -> None:
    with running_store(tmp_path, [ALICE], rate_client=1) as store:
        bob = store.talker(BOB)
        for _ in range(BURST_SECONDS + 5):
            assert send_list(bob, secret=bytes(32)) == "mac"
        assert send_list(bob) == "ok"


def test_a_trusted_proxy_says_who_asks(tmp_path: Path) -> None:
    with running_store(tmp_path, [], rate_network=1, trusted_proxies=["192.0.2.0/24"]) as store:

        def ask(address: str, forwarded: str) -> str:
            octets = json.dumps(Talker(store, MALLORY).request("list", LIST)).encode()
            body = multipart([("request", octets), ("mac", bytes(32))])
            environ = {"REMOTE_ADDR": address, "HTTP_X_FORWARDED_FOR": forwarded}
            return code(store.post(body, environ_overrides=environ))

        for number in range(BURST_SECONDS + 1):  # each asks once
            assert ask("192.0.2.1", f"6.6.6.6, 198.51.100.{number}") == "session"
        answers = {ask("203.0.113.1", f"198.51.100.{number}") for number in range(100, 100 + BURST_SECONDS + 1)}
        assert answers == {"session", "rate"}  # whoever is no proxy cannot say so


def test_buckets_are_bounded() -> None:
    buckets = Buckets(1, most=10)
    for number in range(100):
        buckets.take(str(number), 0)
    assert len(buckets) == 10
    assert Buckets(0).delay("anybody", 0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=50), st.sampled_from([0.5, 1, 7]))
def test_a_bucket_never_gives_more_than_its_rate(steps: list[tuple[bool, float]], rate: float) -> None:
    buckets, now, taken = Buckets(rate), 0.0, 0
    for take, pause in steps:
        now += pause
        if take and not buckets.delay("key", now):
            buckets.take("key", now)
            taken += 1
    assert taken <= max(1, rate * BURST_SECONDS) + rate * now + 1e-6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["version", "op", "host", "time", "nonce", "parts", "session", "senders", "after", "limit"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_json_is_answered_or_refused(bob: Talker, spoil: dict[str, Any]) -> None:
    octets = json.dumps(bob.request("list", LIST) | spoil).encode()
    response = bob.store.post(bob.body(octets))
    assert response.status_code == 200 or code(response) in {
        "malformed",
        "version",
        "operation",
        "wrong-host",
        "clock-skew",
        "session",
    }


def test_a_database_that_fails_is_unavailable(bob: Talker) -> None:
    with bob.store.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE nonces")
    response = bob.send("list", LIST)
    assert (code(response), response.status_code, response.headers["Retry-After"]) == ("unavailable", 503, "30")


def test_how_the_store_is_is_nothing_for_its_clients(store: Store) -> None:
    for page in ("/livez", "/readyz", "/metrics"):
        assert store.http.get(page).status_code == 404
