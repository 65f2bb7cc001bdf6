"""Where recipients' certificates come from: the keyring, else their domain's key server, imported once."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from services.smtp2stub.keys import REFRESH_SECONDS, UNUSABLE_SECONDS, Keys
from stubmail.address import Address
from stubmail.discovery import Store, StubDomain, Target
from stubmail.errors import TemporaryError
from stubmail.keyring import KeyConflict
from stubmail.openpgp import Certificate, Identity
from tests.support.gateway import ALICE, BOB, Clock
from tests.support.gpg import expired_and_renewed, gpg_home, need
from tests.support.key_servers import KeyServers
from tests.support.keys import make_key, packets_of, public
from tests.support.posting import MemoryKeyring, person

KEYSERVERS = (Target("one.beta.example", 11371), Target("two.beta.example", 11371))
OFFER = StubDomain("beta.example", (), KEYSERVERS, (Store("post.beta.example", 8080, "p"),))
TAGGED = Address("bob+lists", "beta.example")
CLOCK: Callable[[], float] = lambda: 1_800_000_000.0  # noqa: E731


@pytest.fixture(scope="module")
def alice() -> Identity:
    return person(ALICE)


@pytest.fixture(scope="module")
def bob() -> Certificate:
    return person(BOB).certificate


@pytest.fixture(scope="module")
def versions() -> Iterator[tuple[bytes, bytes]]:
    """Bob's certificate when it had expired, and when that had been put off."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield expired_and_renewed(home, "Bob <bob@beta.example>")


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


def test_a_domain_with_many_slow_key_servers_is_given_up_in_time(
    alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    monkeypatch.setattr("stubmail.hkp_client.time", SimpleNamespace(monotonic=lambda: passed[0]))

    def slow(search: str) -> Exception:
        passed[0] += 12.0
        return TemporaryError("4.4.2", "does not answer")

    many = tuple(Target(f"k{number}.beta.example", 11371) for number in range(32))
    servers = KeyServers(**{f"k{number}": slow for number in range(32)})
    keys = Keys(MemoryKeyring(alice), servers, CLOCK)  # type: ignore[arg-type]
    with pytest.raises(TemporaryError, match="does not answer"):
        keys.find(BOB, StubDomain("beta.example", (), many, ()))
    assert len(servers.asked) == 3


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
    servers, clock = KeyServers(), Clock()
    keys = Keys(MemoryKeyring(alice, bob), servers, clock)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(TemporaryError, match=r"bob@beta\.example") as caught:
            keys.find(TAGGED, OFFER)
        assert caught.value.code == "4.7.5"
    assert servers.asked == [("one.beta.example", "bob@beta.example")], "once, whether there is a new version"
    clock.now += UNUSABLE_SECONDS
    with pytest.raises(TemporaryError):
        keys.find(BOB, OFFER)
    assert len(servers.asked) == 2


def test_a_new_version_of_an_expired_key_is_taken_in(alice: Identity, versions: tuple[bytes, bytes]) -> None:
    present, clock, counted = Certificate.parse(versions[0]), Clock(time.time()), list[str]()
    keyring, servers = MemoryKeyring(alice, present), KeyServers(one=versions[0])
    keys = Keys(keyring, servers, clock, count=counted.append)  # type: ignore[arg-type]
    with pytest.raises(TemporaryError, match="has expired; its owner has to publish a new one"):
        keys.find(BOB, OFFER)
    servers.answers["one"] = versions[1]
    clock.now += UNUSABLE_SECONDS
    assert keys.find(BOB, OFFER).certificate.fingerprint == present.fingerprint
    assert counted == ["keys updated"]


def test_another_key_is_reported_and_not_used(
    alice: Identity, bob: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    other = person(BOB).certificate
    keyring, servers, counted = MemoryKeyring(alice, bob), KeyServers(one=other.armored()), list[str]()
    keys = Keys(keyring, servers, CLOCK, count=counted.append)  # type: ignore[arg-type]
    for _ in range(3):
        addressee = keys.find(BOB, OFFER)
        assert addressee.certificate == bob
        keys.refresh(BOB, OFFER)
    assert counted == ["keys changed"]
    [change] = keyring.changes
    assert (change.address, change.certificate) == (BOB, other)
    assert caplog.text.count("key changed") == 1
    assert bob.fingerprint in caplog.text
    assert other.fingerprint in caplog.text
    servers.answers["one"] = bob.armored()
    keys.refresh(BOB, OFFER)
    assert list(keyring.changes) == [], "the key server has the old one again"


def test_an_unusable_key_and_another_at_the_server_are_named_together(alice: Identity) -> None:
    key = make_key("<bob@beta.example>")
    first, *others = [bytes(found) for found in packets_of(public(key))]
    revocation = bytes(key.extract_certificate().revoke(key.certifier()))
    revoked = Certificate.parse(b"".join([first, revocation, *others]))
    other = person(BOB).certificate
    keyring, servers = MemoryKeyring(alice, revoked), KeyServers(one=other.armored())
    with pytest.raises(TemporaryError) as caught:
        Keys(keyring, servers, CLOCK).find(BOB, OFFER)  # type: ignore[arg-type]
    for words in (revoked.fingerprint, "has been revoked", other.fingerprint, "stubmail keys accept bob@beta.example"):
        assert words in caught.value.text
    assert keyring.certificates == [revoked]


def test_a_correspondent_s_key_server_is_asked_again_once_a_day(alice: Identity, bob: Certificate) -> None:
    clock = Clock()
    keys = Keys(MemoryKeyring(alice, bob), KeyServers(), clock)  # type: ignore[arg-type]
    addressee = keys.find(BOB, OFFER)
    assert [keys.is_due(addressee) for _ in range(3)] == [True, False, False]
    clock.now += REFRESH_SECONDS - 1
    assert not keys.is_due(addressee)
    clock.now += 1
    assert keys.is_due(addressee)
    never = Keys(MemoryKeyring(alice, bob), KeyServers(), clock, refresh_seconds=0)  # type: ignore[arg-type]
    assert not never.is_due(addressee)


def test_one_that_was_just_fetched_is_not_due(alice: Identity, bob: Certificate) -> None:
    keys = Keys(MemoryKeyring(alice), KeyServers(one=bob.armored()), CLOCK)  # type: ignore[arg-type]
    assert not keys.is_due(keys.find(BOB, OFFER))


@pytest.mark.parametrize("answer", [404, 500, b"rubbish", TemporaryError("4.4.1", "refused")])
def test_a_key_server_that_says_nothing_useful_changes_nothing(
    alice: Identity, bob: Certificate, answer: object
) -> None:
    keyring = MemoryKeyring(alice, bob)
    keys = Keys(keyring, KeyServers(one=answer, two=answer), CLOCK)  # type: ignore[arg-type]
    keys.refresh(BOB, OFFER)
    assert keys.find(BOB, OFFER).certificate == bob
    assert list(keyring.changes) == []


def test_a_recipient_without_a_key_gets_advice(alice: Identity) -> None:
    keys = Keys(MemoryKeyring(alice), KeyServers(), CLOCK, account=ALICE)  # type: ignore[arg-type]
    with pytest.raises(TemporaryError) as caught:
        keys.find(TAGGED, OFFER)
    advice = f"ask {BOB} to publish one there, or import it: stubmail keys import --account {ALICE} FILE"
    assert caught.value.text.endswith(advice)


@pytest.mark.parametrize("written", ["bjørn@blåbær.example", "BJØRN@xn--blbr-roah.example", "Bjørn+nå@BLÅBÆR.example"])
@pytest.mark.parametrize("user_id", ["Bjørn <bjørn@blåbær.example>", "<Bjørn@xn--blbr-roah.example>"])
def test_addresses_beyond_ascii_are_found_however_they_are_written(alice: Identity, written: str, user_id: str) -> None:
    certificate = Certificate.parse(public(make_key(user_id)))
    servers = KeyServers(one=lambda path: certificate.armored() if "%2B" not in path else 404)
    found = Keys(MemoryKeyring(alice), servers, CLOCK).find(Address.parse(written), OFFER)  # type: ignore[arg-type]
    assert (found.certificate, found.address.key) == (certificate, "bjørn@xn--blbr-roah.example")
    assert {question for _, question in servers.asked} <= {
        f"{name}@xn--blbr-roah.example" for name in ("bj%C3%B8rn", "BJ%C3%98RN", "Bj%C3%B8rn", "Bj%C3%B8rn%2Bn%C3%A5")
    }
