"""A client's token: asked for when it is wanted, over the same kind of IP, kept while it is good, asked for again."""

import secrets
from collections.abc import Sequence

import pytest

from stubmail.datagram import TOKEN_SIZE, DatagramError, Token, token_from_wire, token_request_from_wire, token_to_wire
from stubmail.dns.records import Store, StubDomain, Target
from stubmail.errors import TemporaryError
from stubmail.store_token import FIELD, MARGIN, StoreToken
from stubmail.udp_question import ask
from tests.support.fakes import FakeResolver
from tests.support.ports import LOOPBACK, free_port
from tests.support.udp_server import Answers, UdpServer, udp_server
from tests.support.waiting import wait_until

DOMAIN = "alpha.example"
SILENT = 0.05  # seconds: as long as nothing is awaited


class Offering(FakeResolver):
    """A resolver that knows one domain's UDP ports."""

    def __init__(self, *ports: int, hosts: dict[str, list[str]] | None = None) -> None:
        super().__init__(hosts)
        self._ports = ports

    def discover(self, domain: str) -> StubDomain | None:
        """As stubmail.discovery.Resolver.discover."""
        assert domain == DOMAIN
        targets = tuple(Target(f"udp{number}.example", port) for number, port in enumerate(self._ports))
        return StubDomain(domain, targets, (Target("keys.example", 1),), (Store("post.example", 1, "x"),))


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def giving(lifetime: int = 300) -> Answers:
    return lambda data: [token_to_wire(token_request_from_wire(data), Token(secrets.token_bytes(TOKEN_SIZE), lifetime))]


def test_no_token_is_asked_for_before_it_is_wanted() -> None:
    assert StoreToken(Offering(), DOMAIN, Clock()).fields() == {}


def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    clock = Clock()
    with udp_server(giving(300)) as server:
        token = StoreToken(Offering(server.port), DOMAIN, clock)
        token.renew(LOOPBACK)
        first = token.fields()
        assert len(bytes.fromhex(first[FIELD])) == TOKEN_SIZE
        clock.now += 300 - MARGIN - 1
        assert token.fields() == first
        clock.now += 1
        assert token.fields() != first
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "bad",
    [
        lambda data: [],
        lambda data: [token_to_wire(bytes(16), Token(bytes(TOKEN_SIZE), 300))],
        lambda data: [data],
        lambda data: [b"", b"x" * 2000],
    ],
)
def test_a_port_that_gives_no_token_is_passed_over(bad: Answers) -> None:
    with udp_server(bad) as silent, udp_server(giving()) as server:
        token = StoreToken(Offering(silent.port, server.port), DOMAIN, Clock(), patience=SILENT)
        token.renew(LOOPBACK)
        assert token.fields()
    assert len(silent.asked) == 2


def test_without_any_token_the_mail_waits() -> None:
    closed = free_port()
    for resolver in (Offering(), Offering(closed), Offering(closed, hosts={"udp0.example": ["::1"]})):
        token = StoreToken(resolver, DOMAIN, Clock(), patience=SILENT)
        with pytest.raises(TemporaryError, match="wants a token"):
            token.renew(LOOPBACK)
        assert token.fields() == {}


def test_only_the_kind_of_ip_that_http_uses_is_asked() -> None:
    with udp_server(giving()) as server:
        resolver = Offering(server.port, hosts={"udp0.example": ["::1", LOOPBACK]})
        token = StoreToken(resolver, DOMAIN, Clock())
        token.renew(LOOPBACK)
        assert token.fields()


def test_not_every_address_of_many_is_asked() -> None:
    with udp_server(lambda data: []) as server:
        resolver = Offering(server.port, hosts={"udp0.example": [LOOPBACK] * 100})
        with pytest.raises(TemporaryError):
            StoreToken(resolver, DOMAIN, Clock(), patience=0.01).renew(LOOPBACK)
        wait_until(lambda: len(server.asked) == 8)


def question(server: UdpServer, patience: float = 5.0) -> bytes | None:
    def read(data: bytes) -> bytes:
        if data != b"good":
            raise DatagramError("bad")
        return data

    return ask(LOOPBACK, server.port, b"question", read, patience)


def sequence(*rounds: Sequence[bytes]) -> Answers:
    left = iter(rounds)
    return lambda data: next(left)


def test_a_lost_datagram_is_sent_again() -> None:
    with udp_server(sequence([], [b"good"])) as server:
        assert question(server, 0.2) == b"good"
    assert server.asked == [b"question"] * 2


def test_what_cannot_be_read_is_passed_over_while_there_is_time() -> None:
    with udp_server(sequence([b"bad", b"good"])) as server:
        assert question(server) == b"good"


def test_nothing_but_what_cannot_be_read_is_an_error() -> None:
    with udp_server(sequence([b"bad"], [])) as server, pytest.raises(DatagramError):
        question(server, SILENT)


def test_silence_is_none_and_a_closed_port_an_error() -> None:
    with udp_server(lambda data: []) as server:
        assert question(server, SILENT) is None
    with pytest.raises(ConnectionRefusedError):
        ask(LOOPBACK, free_port(), b"x", lambda data: token_from_wire(data, bytes(16)))
