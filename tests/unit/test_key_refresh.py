"""Keys that change at their server, on a real keyring: what is taken in, what only reported, what a person accepts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pysequoia
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.discovery import StubDomain, Target
from stubmail.errors import PermanentError
from stubmail.key_changes import DIRECTORY, Change, KeyChanges
from stubmail.key_refresh import Refreshed, State, refresh
from stubmail.keyring import REPLACED, KeyConflict, Keyring
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.gnupg import GnuPG, Result
from tests.support.gpg import GpgHome, expired_and_renewed, gpg_home, need
from tests.support.key_servers import KeyServers
from tests.support.keys import make_key, packets_of, public

BOB, CAROL, ALICE = (Address.parse(f"{name}.example") for name in ("bob@beta", "carol@beta", "alice@alpha"))
OFFER = StubDomain("beta.example", (), (Target("one.beta.example", 11371), Target("two.beta.example", 11371)), ())
NOW = datetime.now(UTC)


@pytest.fixture
def home() -> Iterator[GpgHome]:
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield home


@pytest.fixture
def keyring(home: GpgHome) -> Keyring:
    return Keyring(home.path)


@pytest.fixture(scope="module")
def versions() -> Iterator[tuple[bytes, bytes]]:
    """Bob's certificate when it had expired, and when that had been put off."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield expired_and_renewed(home, "Bob <bob@beta.example>")


@pytest.fixture(scope="module")
def key() -> pysequoia.Tsk:
    return make_key("Bob <bob@beta.example>")


def ask(keyring: Keyring, answer: object, address: Address = BOB) -> Refreshed | None:
    return refresh(keyring, KeyServers(one=answer), OFFER, address, NOW.timestamp())  # type: ignore[arg-type]


def certificate(key: pysequoia.Tsk) -> Certificate:
    return Certificate.parse(public(key))


def revoked(key: pysequoia.Tsk) -> bytes:
    first, *others = [bytes(found) for found in packets_of(public(key))]
    return b"".join([first, bytes(key.extract_certificate().revoke(key.certifier())), *others])


def test_the_same_key_is_nothing_new(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    before = (keyring.home / "pubring.kbx").stat().st_mtime_ns
    found = ask(keyring, public(key))
    assert found is not None
    assert (found.state, found.offered) == (State.SAME, None)
    assert (keyring.home / "pubring.kbx").stat().st_mtime_ns == before


def test_a_later_expiry_is_taken_in(keyring: Keyring, versions: tuple[bytes, bytes]) -> None:
    keyring.add(Certificate.parse(versions[0]))
    held = keyring.find(BOB)
    assert held is not None
    assert held.problem(NOW) == "expired"
    found = ask(keyring, versions[1])
    assert found is not None
    assert found.state is State.UPDATED
    held = keyring.find(BOB)
    assert held is not None
    assert held.problem(NOW + timedelta(days=700)) is None
    again = ask(keyring, versions[0])
    assert again is not None
    assert again.present.expires == held.expires, "an older version takes nothing away"


def test_a_revocation_is_taken_in_and_the_successor_only_noted(keyring: Keyring, key: pysequoia.Tsk) -> None:
    successor = make_key("Bob <bob@beta.example>")
    keyring.add(certificate(key))
    found = ask(keyring, revoked(key) + public(successor))
    assert found is not None
    assert (found.state, found.news) == (State.CHANGED, True)
    assert found.present.problem(NOW) == "revoked"
    assert [held.fingerprint for held in keyring.correspondents()[BOB.key]] == [certificate(key).fingerprint]
    assert found.offered == certificate(successor)


def test_an_older_version_takes_nothing_away(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(Certificate.parse(revoked(key)))
    found = ask(keyring, public(key))
    assert found is not None
    assert found.state is State.SAME
    assert found.present.problem(NOW) == "revoked"


def test_a_forged_revocation_is_nothing(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    other = make_key("Bob <bob@beta.example>")
    first, *others = [bytes(found) for found in packets_of(public(key))]
    forged = b"".join([first, bytes(other.extract_certificate().revoke(other.certifier())), *others])
    found = ask(keyring, forged)
    assert found is not None
    assert (found.state, found.present.problem(NOW)) == (State.SAME, None)


def test_another_key_is_noted_once_and_accepted_as_it_was_seen(keyring: Keyring, key: pysequoia.Tsk) -> None:
    other = make_key("Bob <bob@beta.example>")
    keyring.add(certificate(key))
    first, second = ask(keyring, public(other)), ask(keyring, public(other))
    assert first is not None
    assert second is not None
    assert [(found.state, found.news) for found in (first, second)] == [(State.CHANGED, True), (State.CHANGED, False)]
    held = keyring.find(BOB)
    assert held is not None
    assert held.fingerprint == certificate(key).fingerprint
    change = keyring.changes.of(BOB)
    assert change is not None
    [kept] = keyring.replace(change.certificate, BOB)
    held = keyring.find(BOB)
    assert held is not None
    assert held.fingerprint == certificate(other).fingerprint
    assert keyring.by_fingerprint(certificate(key).fingerprint) is None
    assert Certificate.parse(kept.read_bytes()).fingerprint == certificate(key).fingerprint
    assert keyring.replace(change.certificate, BOB) == [], "again, after a crash"


def test_user_ids_for_others_do_not_come_along(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    wide = bytes(key.extract_certificate().add_user_id("Alice <alice@alpha.example>", key.certifier()))
    ask(keyring, wide)
    assert keyring.find(ALICE) is None
    assert keyring.find(BOB) is not None


def test_a_domain_that_publishes_nothing_changes_nothing(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    for answer in (404, public(make_key("Eve <eve@beta.example>")), revoked(make_key("Bob <bob@beta.example>"))):
        found = ask(keyring, answer)
        assert found is not None
        assert found.state is State.UNPUBLISHED
    assert list(keyring.changes) == []
    assert ask(keyring, public(key), CAROL) is None, "the keyring has no key for her"


def test_a_second_key_that_the_user_has_is_no_change(keyring: Keyring, home: GpgHome, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    other = make_key("Bob <bob@beta.example>")
    home.run("--import", data=public(other))
    for published in (key, other):
        found = ask(keyring, public(published))
        assert found is not None
        assert found.state in (State.SAME, State.UNPUBLISHED)
    assert list(keyring.changes) == []


def test_an_exchange_that_broke_off_is_completed_by_the_next(
    keyring: Keyring, key: pysequoia.Tsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, other = certificate(key), certificate(make_key("Bob <bob@beta.example>"))
    keyring.add(old)
    run = GnuPG.run

    def dies(self: GnuPG, *arguments: str, **options: Any) -> Result:
        if arguments[0] == "--delete-keys":
            raise KeyboardInterrupt
        return run(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GnuPG, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            keyring.replace(other, BOB)
    assert {held.fingerprint for held in keyring.correspondents()[BOB.key]} == {old.fingerprint, other.fingerprint}
    [kept] = keyring.replace(other, BOB)
    assert [held.fingerprint for held in keyring.correspondents()[BOB.key]] == [other.fingerprint]
    assert Certificate.parse(kept.read_bytes()).fingerprint == old.fingerprint


def test_a_replaced_key_keeps_its_other_addresses(keyring: Keyring, home: GpgHome, key: pysequoia.Tsk) -> None:
    both = bytes(key.extract_certificate().add_user_id("Bob <carol@beta.example>", key.certifier()))
    home.run("--import", data=both)
    other = certificate(make_key("Bob <bob@beta.example>"))
    keyring.replace(other, BOB)
    bob, carol = keyring.find(BOB), keyring.find(CAROL)
    assert bob is not None
    assert carol is not None
    assert (bob.fingerprint, carol.fingerprint) == (other.fingerprint, certificate(key).fingerprint)
    assert carol.addresses == {CAROL.key}


def test_our_own_key_is_not_replaced(keyring: Keyring) -> None:
    own = keyring.generate(ALICE, "Alice")
    with pytest.raises(PermanentError, match="our own key"):
        keyring.replace(certificate(make_key("Alice <alice@alpha.example>")), ALICE)
    assert keyring.export(ALICE) == own


def test_a_version_that_takes_anothers_address_is_refused(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    keyring.add(certificate(make_key("Carol <carol@beta.example>")))
    wide = bytes(key.extract_certificate().add_user_id("Bob <carol@beta.example>", key.certifier()))
    with pytest.raises(KeyConflict):
        keyring.update(Certificate.parse(wide))
    with pytest.raises(PermanentError, match="has no key"):
        keyring.update(certificate(make_key("Dora <dora@beta.example>")))


# What is kept of changes


def test_changes_last_and_are_settled(tmp_path: Path, key: pysequoia.Tsk) -> None:
    changes = KeyChanges(tmp_path)
    assert (list(changes), changes.of(BOB), changes.settle(BOB)) == ([], None, False)
    assert changes.note(BOB, certificate(key), 1000.5)
    assert not changes.note(Address.parse("BOB@Beta.example"), certificate(key), 2000)
    assert list(KeyChanges(tmp_path)) == [Change(BOB, certificate(key), 1000.0)]
    other = certificate(make_key("Bob <bob@beta.example>"))
    assert changes.note(BOB, other, 3000)
    assert changes.of(BOB) == Change(BOB, other, 3000.0)
    assert changes.settle(BOB)
    assert list(changes) == []


def test_their_number_is_bounded(tmp_path: Path, key: pysequoia.Tsk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stubmail.key_changes.MAX_CHANGES", 2)
    changes = KeyChanges(tmp_path)
    for number in range(5):
        assert changes.note(Address(f"user{number}", "beta.example"), certificate(key), 1000)
    assert len(list(changes)) == 2


@given(st.binary(max_size=200) | st.sampled_from([b"{}", b"[]", b'{"address": 1, "seen": 2, "certificate": "x"}']))
def test_a_damaged_file_is_no_change(data: bytes) -> None:
    with TemporaryDirectory() as root:
        (Path(root) / DIRECTORY).mkdir()
        (Path(root) / DIRECTORY / "x.json").write_bytes(data)
        assert list(KeyChanges(Path(root))) == []


def test_the_files_are_their_owner_s_alone(keyring: Keyring, key: pysequoia.Tsk) -> None:
    keyring.add(certificate(key))
    other = certificate(make_key("Bob <bob@beta.example>"))
    keyring.changes.note(BOB, other, 0)
    keyring.replace(other, BOB)
    for name in (DIRECTORY, REPLACED):
        directory = keyring.home / name
        assert directory.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]


def test_a_merged_certificate_stays_bounded(key: pysequoia.Tsk, monkeypatch: pytest.MonkeyPatch) -> None:
    present = certificate(key)
    monkeypatch.setattr("stubmail.openpgp.certificate.MAX_CERTIFICATE", len(present.data) + 10)
    with pytest.raises(OpenPGPError) as caught:
        present.merged(Certificate.parse(revoked(key)))
    assert caught.value.reason == "too-large"
