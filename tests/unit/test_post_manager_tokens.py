"""Tokens: good for whom they were given, for minutes; the rest of the world is refused at the header, body unread."""

import io
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.post_manager.settings import PostManager
from services.post_manager.storage.keys import store_key
from services.post_manager.tokens import SLOT_SECONDS, Tokens
from stubmail.datagram import TOKEN_SIZE
from stubmail.settings import ConfigError
from tests.support.store import BOUNDARY, NOW, URL, Person, Store, code, running_store

ALICE = Person("alice@alpha.example")
KEY = bytes(range(32))
TOKENS = Tokens(KEY)
ADDRESSES = st.integers(1, 2**32 - 1).map(IPv4Address) | st.integers(2**64, 2**128 - 1).map(IPv6Address)
TIMES = st.integers(0, 2**40)


@given(ADDRESSES, TIMES)
def test_a_token_is_good_for_as_long_as_it_says(address: IPv4Address | IPv6Address, now: int) -> None:
    token = TOKENS.give(str(address), now % 2**32)
    now %= 2**32
    assert len(token.octets) == TOKEN_SIZE
    assert SLOT_SECONDS < token.lifetime <= 2 * SLOT_SECONDS
    for after in (0, 1, SLOT_SECONDS, token.lifetime - 1):
        assert TOKENS.good(token.octets, str(address), now + after)
    for after in (token.lifetime, 10 * SLOT_SECONDS, -2 * SLOT_SECONDS):
        assert not TOKENS.good(token.octets, str(address), now + after)


def test_a_clock_that_is_a_slot_behind_takes_it_too() -> None:
    assert TOKENS.good(TOKENS.give("192.0.2.1", NOW).octets, "192.0.2.1", NOW - SLOT_SECONDS)


@pytest.mark.parametrize(
    ("asker", "sender", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("192.0.2.1", "unknown", False),
    ],
)
def test_a_token_is_its_networks_alone(asker: str, sender: str, same: bool) -> None:
    assert TOKENS.good(TOKENS.give(asker, NOW).octets, sender, NOW) is same


@given(st.binary(max_size=40))
def test_any_octets_are_no_token(token: bytes) -> None:
    assert not TOKENS.good(token, "192.0.2.1", NOW)


@given(st.integers(0, TOKEN_SIZE * 8 - 1))
def test_no_bit_of_a_token_can_be_changed(bit: int) -> None:
    octets = bytearray(TOKENS.give("192.0.2.1", NOW).octets)
    octets[bit // 8] ^= 1 << bit % 8
    assert not TOKENS.good(bytes(octets), "192.0.2.1", NOW)


def test_another_store_s_token_is_none() -> None:
    assert not TOKENS.good(Tokens(bytes(32)).give("192.0.2.1", NOW).octets, "192.0.2.1", NOW)


# At the HTTP edge


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    settings = {"require_udp": True, "trusted_proxies": ["198.51.100.0/24"], "database": database_url}
    with running_store(tmp_path, [ALICE], **settings) as store:
        yield store


class Body(io.BytesIO):
    """A request's body that knows how much of it was read."""

    octets_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.octets_read += len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        raise AssertionError("read in another way")


def send(store: Store, remote: str, token: str | None = None, forwarded: str | None = None) -> tuple[str, int]:
    """POST a megabyte from an address; return the refusal's code and how many octets of the body were read."""
    body = Body(bytes(1_000_000))
    headers = {"Stub-Token": token, "X-Forwarded-For": forwarded}
    response = store.http.post(
        URL,
        input_stream=body,
        headers={name: value for name, value in headers.items() if value is not None},
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
        content_length=1_000_000,
        environ_base={"REMOTE_ADDR": remote},
    )
    return code(response), body.octets_read


def test_who_never_asked_over_udp_is_refused_unread(store: Store) -> None:
    assert send(store, "192.0.2.1") == ("token", 0)
    assert store.counters["refused token"] == 1
    assert send(store, "127.0.0.1")[0] == "malformed", "exempt: its body is looked at"


def test_the_token_is_looked_at_before_the_method(store: Store) -> None:
    assert code(store.http.get(URL, environ_base={"REMOTE_ADDR": "192.0.2.1"})) == "token"
    assert code(store.http.get(URL, environ_base={"REMOTE_ADDR": "127.0.0.1"})) == "method"


def test_a_token_opens_the_door_for_its_network_and_its_time(store: Store) -> None:
    tokens = Tokens(store_key(store.database))
    good = tokens.give("192.0.2.1", NOW).octets.hex()
    assert send(store, "192.0.2.1", good)[0] == "malformed"
    for remote, token in {
        "192.0.2.2": good,
        "192.0.2.1": tokens.give("192.0.2.1", NOW - 2 * SLOT_SECONDS).octets.hex(),
        "192.0.2.3": Tokens(bytes(32)).give("192.0.2.3", NOW).octets.hex(),
        "192.0.2.4": "no hex",
        "192.0.2.5": "",
        "192.0.2.6": "٠" * 40,
    }.items():
        assert send(store, remote, token) == ("token", 0)
    assert store.counters["refused token"] == 6
    store.clock.now += 2 * SLOT_SECONDS
    assert send(store, "192.0.2.1", good) == ("token", 0)


def test_behind_a_proxy_the_client_s_own_address_counts(store: Store) -> None:
    good = Tokens(store_key(store.database)).give("192.0.2.1", NOW).octets.hex()
    assert send(store, "198.51.100.7", good, "192.0.2.1")[0] == "malformed"
    assert send(store, "198.51.100.7", good, "192.0.2.1, 192.0.2.9") == ("token", 0)
    assert send(store, "198.51.100.7", None, "127.0.0.1")[0] == "malformed"
    assert send(store, "203.0.113.5", None, "127.0.0.1") == ("token", 0)


def test_all_operations_are_behind_the_door(store: Store) -> None:
    talker = store.talker(ALICE)  # from loopback, which is exempt
    store.http.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    for op in ("open", "store", "list", "fetch", "ack", "outbox", "withdraw"):
        assert code(talker.send(op, {})) == "token"
    store.http.environ_base["HTTP_STUB_TOKEN"] = Tokens(store_key(store.database)).give("192.0.2.1", NOW).octets.hex()
    assert talker.outbox() == []


def test_replicas_share_the_key(store: Store) -> None:
    assert store_key(store.database) == store_key(store.database)
    assert len(store_key(store.database)) == 32


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="require_udp"):
        PostManager(accounts=tmp_path, require_udp=True, udp=False)
    with pytest.raises(ConfigError, match="token_exempt"):
        PostManager(accounts=tmp_path, token_exempt=["here"])
