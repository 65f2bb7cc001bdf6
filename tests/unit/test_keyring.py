import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pysequoia
import pytest

from stubmail import keyring as keyring_module
from stubmail.address import Address
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.keyring import MAX_HOME, KeyConflict, Keyring
from stubmail.openpgp import Certificate, OpenPGPError, verify
from stubmail.openpgp import gnupg as gnupg_module
from stubmail.openpgp.gnupg import GnuPG, Result
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.keys import make_key, packets_of, public

ALICE = Address.parse("alice@alpha.example")
BOB = Address.parse("bob@beta.example")
NOW = datetime.now(UTC)


def certificate(user_id: str = "Bob <bob@beta.example>") -> Certificate:
    return Certificate.parse(public(make_key(user_id)))


@pytest.fixture(scope="module")
def own_home() -> Iterator[GpgHome]:
    """A home with a secret key, for tests that change nothing; an agent takes a while to start."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        Keyring(home.path).generate(ALICE, "Alice")
        yield home


@pytest.fixture
def own(own_home: GpgHome) -> Keyring:
    return Keyring(own_home.path)


@pytest.fixture
def home() -> Iterator[GpgHome]:
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield home


@pytest.fixture
def keyring(home: GpgHome) -> Keyring:
    return Keyring(home.path)


def test_an_empty_keyring_has_nobody(keyring: Keyring) -> None:
    assert keyring.find(BOB) is None
    assert keyring.by_fingerprint("0" * 40) is None
    assert keyring.correspondents() == {}
    with pytest.raises(PermanentError, match="no secret key"):
        keyring.export(BOB)


def test_a_home_is_made_for_its_owner_alone(home: GpgHome) -> None:
    new = home.path / "new"
    Keyring(new)
    assert stat.S_IMODE(new.stat().st_mode) == 0o700


def test_a_generated_key_is_complete(own: Keyring) -> None:
    made = own.export(ALICE)
    assert made.user_ids == ("Alice <alice@alpha.example>",)
    assert made.addresses == {ALICE.key}
    assert made.expires is None
    assert made.problem(NOW) is None
    assert [found.key_algorithm for found in packets_of(made.data) if found.key_algorithm]
    assert len(made.key_fingerprints) == 2


def test_a_generated_key_signs(own: Keyring) -> None:
    with own.identity(Address.parse("alice+work@alpha.example")) as alice:
        assert alice.fingerprint == own.export(ALICE).fingerprint
        verify(b"text", alice.sign(b"text"), alice.certificate)


def test_a_second_key_for_an_address_is_not_generated(own: Keyring) -> None:
    with pytest.raises(KeyConflict) as conflict:
        own.generate(ALICE, "Alice again")
    assert conflict.value.present == own.export(ALICE).fingerprint


@pytest.mark.parametrize("name", ["Bob\nKey-Type: RSA", "Bob <eve@evil.example>", "bob@beta.example", "\x1b[31m"])
def test_a_name_cannot_smuggle_anything_in(keyring: Keyring, name: str) -> None:
    with pytest.raises(PermanentError, match="printable"):
        keyring.generate(BOB, name)


@pytest.mark.parametrize("passphrase", ["two\nlines", " padded "])
def test_a_passphrase_that_gpg_would_change_is_refused(keyring: Keyring, passphrase: str) -> None:
    with pytest.raises(PermanentError, match="passphrase"):
        keyring.generate(BOB, "Bob", passphrase)


def test_our_own_keys_are_no_correspondents(own: Keyring) -> None:
    assert own.find(ALICE) == own.export(ALICE)
    assert ALICE.key not in own.correspondents()


def test_a_certificate_is_imported_once(keyring: Keyring) -> None:
    bob = certificate()
    assert keyring.add(bob) is True
    assert keyring.add(bob) is False
    found = keyring.find(BOB)
    assert found is not None
    assert found.fingerprint == bob.fingerprint
    assert found.problem(NOW) is None
    assert [held.fingerprint for held in keyring.correspondents()[BOB.key]] == [bob.fingerprint]
    with pytest.raises(PermanentError, match="no secret key"):
        keyring.identity(BOB)


def test_a_certificate_is_never_replaced(keyring: Keyring) -> None:
    bob, impostor = certificate(), certificate("Rob <BOB@beta.example>")
    keyring.add(bob)
    with pytest.raises(KeyConflict) as conflict:
        keyring.add(impostor)
    assert (conflict.value.present, conflict.value.offered) == (bob.fingerprint, impostor.fingerprint)
    assert bob.fingerprint in conflict.value.text
    assert impostor.fingerprint in conflict.value.text
    assert keyring.by_fingerprint(impostor.fingerprint) is None


def test_a_certificate_without_an_address_is_not_imported(keyring: Keyring) -> None:
    with pytest.raises(OpenPGPError, match="no mail address"):
        keyring.add(certificate("Bob"))


def test_a_certificate_that_gpg_cannot_read_is_refused(keyring: Keyring) -> None:
    key = pysequoia.Tsk.generate(user_id="Bob <bob@beta.example>", profile=pysequoia.Profile.RFC9580)
    with pytest.raises(OpenPGPError) as error:
        keyring.add(Certificate.parse(public(key)))
    assert error.value.reason == "unsupported"


def test_exact_addresses_come_before_base_addresses(keyring: Keyring) -> None:
    base, exact = certificate(), certificate("Bob's lists <bob+lists@beta.example>")
    keyring.add(base)
    keyring.add(exact)

    def found(address: str) -> str | None:
        held = keyring.find(Address.parse(address))
        return held and held.fingerprint

    assert found("bob@beta.example") == base.fingerprint
    assert found("BOB+Lists@BETA.example") == exact.fingerprint
    assert found("bob+other@beta.example") == base.fingerprint
    assert found("rob@beta.example") is None
    assert found("bob@alpha.example") is None


@pytest.mark.parametrize("user_id", ["Bjørn <Bjørn@blåbær.example>", "<bjørn@xn--blbr-roah.example>"])
def test_addresses_beyond_ascii_are_found_however_they_are_written(keyring: Keyring, user_id: str) -> None:
    keyring.add(certificate(user_id))
    for text in ("bjørn@blåbær.example", "BJØRN@BLÅBÆR.example", "bjørn+nå@xn--blbr-roah.example"):
        assert keyring.find(Address.parse(text)) is not None
    assert list(keyring.correspondents()) == ["bjørn@xn--blbr-roah.example"]


def test_certificates_are_found_by_every_key_of_theirs(keyring: Keyring) -> None:
    bob = certificate()
    keyring.add(bob)
    for fingerprint in bob.key_fingerprints:
        for name in (fingerprint, fingerprint.lower(), fingerprint[-16:]):
            found = keyring.by_fingerprint(name)
            assert found is not None
            assert found.fingerprint == bob.fingerprint
        assert keyring.by_fingerprint(fingerprint[-8:]) is None


def test_anothers_subkey_makes_its_fingerprint_useless_but_not_the_primary_one(keyring: Keyring) -> None:
    bob = certificate()
    mallory = packets_of(public(make_key("Mallory <mallory@evil.example>")))
    stolen = packets_of(bob.data)[-2:]
    both = [Certificate.parse(b"".join(map(bytes, [*mallory, *stolen]))), bob]
    keyring.add(bob)
    found = keyring.by_fingerprint(bob.key_fingerprints[-1])
    assert found is not None
    assert found.fingerprint == bob.fingerprint
    keyring._contents = type(keyring._read())(keyring._read().stamp, both, set(), set())
    assert keyring.by_fingerprint(bob.key_fingerprints[-1]) is None
    assert keyring.by_fingerprint(bob.fingerprint) == bob


@pytest.mark.parametrize(("empty", "fails"), [(1, False), (2, False), (3, True)])
def test_a_keyring_that_changes_while_it_is_read_is_read_again(
    own: Keyring, monkeypatch: pytest.MonkeyPatch, empty: int, fails: bool
) -> None:
    run, exports = GnuPG.run, itertools.count()

    def changing(gnupg: GnuPG, *arguments: str) -> Result:
        done = run(gnupg, *arguments)
        return replace(done, output=b"") if "--export" in arguments and next(exports) < empty else done

    monkeypatch.setattr(GnuPG, "run", changing)
    if fails:
        with pytest.raises(TemporaryError, match="cannot export"):
            own.export(ALICE)
    else:
        assert own.export(ALICE).addresses == {ALICE.key}


def test_gpg_is_not_started_for_every_look_up(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring.add(certificate())
    assert keyring.find(BOB)

    def fail(*_arguments: object, **_options: object) -> None:
        raise AssertionError("gpg was started")

    monkeypatch.setattr(GnuPG, "run", fail)
    assert keyring.find(BOB)
    assert keyring.correspondents()


def test_what_the_user_changes_with_gpg_is_seen(keyring: Keyring, home: GpgHome) -> None:
    bob = certificate()
    home.run("--import", data=bob.data)
    found = keyring.find(BOB)
    assert found is not None
    assert found.fingerprint == bob.fingerprint
    home.run("--delete-keys", bob.fingerprint)
    assert keyring.find(BOB) is None


def test_a_second_keyring_sees_the_first_ones_changes(keyring: Keyring, home: GpgHome) -> None:
    second = Keyring(home.path)
    assert second.find(BOB) is None
    keyring.add(certificate())
    assert second.find(BOB) is not None
    with pytest.raises(KeyConflict):
        second.add(certificate())


def test_a_usable_certificate_comes_before_a_newer_revoked_one(keyring: Keyring, home: GpgHome) -> None:
    good, key = certificate(), make_key("Bob <bob@beta.example>")
    first, *others = [bytes(found) for found in packets_of(public(key))]
    revocation = bytes(key.extract_certificate().revoke(key.certifier()))
    home.run("--import", data=b"".join([first, revocation, *others]))
    found = keyring.find(BOB)
    assert found is not None
    assert found.problem(NOW) == "revoked", "the caller shall learn why"
    home.run("--import", data=good.data)
    found = keyring.find(BOB)
    assert found is not None
    assert found.fingerprint == good.fingerprint


def test_a_certificate_that_the_user_disabled_is_not_used(keyring: Keyring, home: GpgHome) -> None:
    bob = certificate()
    keyring.add(bob)
    home.run("--import-ownertrust", data=f"{bob.fingerprint}:131:\n".encode())  # 3, never, and 128, disabled
    assert keyring.find(BOB) is None
    assert keyring.correspondents() == {}
    assert keyring.by_fingerprint(bob.fingerprint) is None
    with pytest.raises(KeyConflict):
        keyring.add(certificate())
    assert keyring.add(bob) is False


HOSTILE = ["\u0085pub", "\u2028fpr:::::::::X", "\rsec:u:", "Å[GNUPG:] ERROR x 1", "\x0c[GNUPG:] IMPORT_OK"]


@pytest.mark.parametrize("name", HOSTILE)
def test_user_ids_do_not_disturb_the_listing(keyring: Keyring, home: GpgHome, name: str) -> None:
    hostile, bob = public(make_key(f"Eve{name} <eve@evil.example>")), certificate()
    home.run("--import", data=hostile)
    keyring.add(bob)
    assert keyring.find(BOB) is not None
    assert len(keyring._read().all) == 2
    assert not keyring._read().own


def test_a_corrupt_keyring_is_trouble_not_emptiness(keyring: Keyring, home: GpgHome) -> None:
    keyring.add(certificate())
    os.truncate(home.path / "pubring.kbx", 100)
    with pytest.raises(TemporaryError):
        keyring.find(BOB)


def test_a_long_home_is_refused_with_the_reason() -> None:
    with pytest.raises(Exit, match=f"more than {MAX_HOME} characters") as stop:
        Keyring(Path("/tmp") / ("x" * MAX_HOME))
    assert stop.value.status == os.EX_CONFIG


def test_a_missing_gpg_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for action in (lambda: Keyring(tmp_path / "h"), lambda: GnuPG(tmp_path).run("--version")):
        with pytest.raises(Exit, match="apt-get install gnupg") as stop:
            action()
        assert stop.value.status == os.EX_UNAVAILABLE


def test_an_import_that_hangs_is_given_up(keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gpg"
    real = shutil.which("gpg")
    program.write_text(f'#!/bin/sh\ncase "$*" in *--import*) exec sleep 60;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(keyring_module, "TIMEOUT", 1)
    with pytest.raises(TemporaryError):
        keyring.add(certificate())
    monkeypatch.undo()
    assert keyring.add(certificate())


def test_a_gpg_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gpg"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gnupg_module, "TIMEOUT", 0.1)
    with pytest.raises(TemporaryError, match="did not finish"):
        GnuPG(tmp_path).run("--list-keys")
