"""Where recipients' certificates come from: the keyring, else their domain's key server, imported once."""

from collections.abc import Callable
from io import BytesIO

import pytest

from services.smtp2stub.keys import Keys
from stubmail.address import Address
from stubmail.discovery import Store, StubDomain, Target
from stubmail.errors import TemporaryError
from stubmail.keyring import KeyConflict
from stubmail.openpgp import Certificate, Identity
from tests.support.gateway import ALICE, BOB
from tests.support.keys import make_key
from tests.support.posting import MemoryKeyring, person

KEYSERVERS = (Target("one.beta.example", 11371), Target("two.beta.example", 11371))
OFFER = StubDomain("beta.example", (), KEYSERVERS, (Store("post.beta.example", 8080, "p"),))
TAGGED = Address("bob+lists", "beta.example")
CLOCK: Callable[[], float] = lambda: 1_800_000_000.0  # noqa: E731


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = BytesIO(body)

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()

    def read(self, most: int) -> bytes:
        return self._body.read(most)


class KeyServers:
    """Stands for the HTTP client: ``answers`` by host, the same to all questions or by address asked for."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def get(self, host: str, port: int, path: str) -> Answer:
        self.asked.append((host, path.rpartition("search=")[2]))
        answer = self.answers.get(host.partition(".")[0], 404)
        if isinstance(answer, dict):
            answer = answer.get(path.rpartition("search=")[2], 404)
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, answer) if isinstance(answer, bytes) else Answer(int(str(answer)), b"")


@pytest.fixture(scope="module")
def alice() -> Identity:
    return person(ALICE)


@pytest.fixture(scope="module")
def bob() -> Certificate:
    return person(BOB).certificate


@pytest.fixture(scope="module")
def tagged() -> Certificate:
    return person(TAGGED).certificate


def test_the_keyring_s_certificate_is_taken_without_asking(alice: Identity, bob: Certificate) -> None:
    servers = KeyServers(one=person(BOB).certificate.armored())
    found = Keys(MemoryKeyring(alice, bob), servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    assert found.certificate == bob
    assert found.address == BOB
    assert servers.asked == []


def test_one_that_is_missing_is_fetched_and_imported_once(alice: Identity, bob: Certificate) -> None:
    servers, keyring = KeyServers(one=bob.armored()), MemoryKeyring(alice)
    keys = Keys(keyring, servers, CLOCK)  # type: ignore[arg-type]
    assert [keys.find(BOB, OFFER).certificate for _ in range(3)] == [bob] * 3
    assert servers.asked == [("one.beta.example", "bob@beta.example")]
    assert keyring.certificates == [bob]


def test_a_subaddress_finds_its_owner_s_key(alice: Identity, bob: Certificate) -> None:
    servers = KeyServers(one={"bob@beta.example": bob.armored()})
    found = Keys(MemoryKeyring(alice), servers, CLOCK).find(TAGGED, OFFER)  # type: ignore[arg-type]
    assert (found.address, found.certificate) == (BOB, bob)
    found = Keys(MemoryKeyring(alice, bob), KeyServers(), CLOCK).find(TAGGED, OFFER)  # type: ignore[arg-type]
    assert found.address == BOB


def test_a_subaddress_with_a_key_of_its_own_gets_that(alice: Identity, bob: Certificate, tagged: Certificate) -> None:
    found = Keys(MemoryKeyring(alice, bob, tagged), KeyServers(), CLOCK).find(TAGGED, OFFER)  # type: ignore[arg-type]
    assert (found.address, found.certificate) == (TAGGED, tagged)


@pytest.mark.parametrize("first", [TemporaryError("4.4.1", "refused"), 404, 500, b"rubbish", b""])
def test_the_next_key_server_is_asked_when_one_does_not_help(alice: Identity, bob: Certificate, first: object) -> None:
    servers = KeyServers(one=first, two=bob.armored())
    found = Keys(MemoryKeyring(alice), servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    assert found.certificate == bob
    assert [host for host, _ in servers.asked] == ["one.beta.example", "two.beta.example"]


@pytest.mark.parametrize("answer", [404, 500, 302, b"rubbish", TemporaryError("4.4.1", "refused")])
def test_without_a_usable_certificate_mail_waits(alice: Identity, answer: object) -> None:
    servers, keyring = KeyServers(one=answer, two=answer), MemoryKeyring(alice)
    with pytest.raises(TemporaryError):
        Keys(keyring, servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    assert keyring.certificates == []


def test_a_certificate_for_somebody_else_is_not_imported(alice: Identity, tagged: Certificate) -> None:
    servers, keyring = KeyServers(one=tagged.armored()), MemoryKeyring(alice)
    with pytest.raises(TemporaryError):
        Keys(keyring, servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    assert keyring.certificates == []


def test_a_certificate_that_also_claims_others_addresses_is_taken_for_the_one_only(alice: Identity) -> None:
    mallory, key = Address("mallory", "beta.example"), make_key("<mallory@beta.example>")
    both = bytes(key.extract_certificate().add_user_id("Bob <bob@beta.example>", key.certifier()))
    servers, keyring = KeyServers(one={str(mallory): both}), MemoryKeyring(alice)
    keys = Keys(keyring, servers, CLOCK)  # type: ignore[arg-type]
    assert keys.find(mallory, OFFER).certificate.addresses == {mallory.key}
    with pytest.raises(TemporaryError, match="no key for bob"):
        keys.find(BOB, OFFER)


class Stubborn(MemoryKeyring):
    """Has another certificate that it does not find: one for two addresses."""

    def add(self, certificate: Certificate) -> bool:
        raise KeyConflict("bob@beta.example", "A" * 40, certificate.fingerprint)


def test_a_conflict_keeps_mail_waiting_and_the_keyring_as_it_is(alice: Identity, bob: Certificate) -> None:
    with pytest.raises(TemporaryError, match="cannot replace"):
        Keys(Stubborn(alice), KeyServers(one=bob.armored()), CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", ["revoked", "expired", "cannot-encrypt"])
def test_a_certificate_in_the_keyring_that_cannot_be_used_is_said_to_be(
    alice: Identity, bob: Certificate, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Certificate, "problem", lambda self, now: problem)
    servers = KeyServers(one=person(BOB).certificate.armored())
    with pytest.raises(TemporaryError, match=r"bob@beta\.example") as caught:
        Keys(MemoryKeyring(alice, bob), servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    assert caught.value.code == "4.7.5"
    assert servers.asked == []
