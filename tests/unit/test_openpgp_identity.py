import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pysequoia
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysequoia.packet import Tag

from stubmail.openpgp import Certificate, Identity, OpenPGPError, encrypt, sandbox_process, split, verify
from stubmail.openpgp.nobody import CERTIFICATE, SENTENCE
from stubmail.openpgp.unlocked import UnlockedIdentity
from tests.support.keys import NoGnuPG, make_identity, make_key, packet, packets_of, public, tags_of

ALICE_KEY = make_key()
BOB_KEY = make_key("Bob <bob@beta.example>")
CAROL_KEY = make_key("Carol <carol@beta.example>")
ALICE, BOB, CAROL = (Certificate.parse(public(key)) for key in (ALICE_KEY, BOB_KEY, CAROL_KEY))
TEXT = b"Stub-Version: 1\r\n\r\nSubject: h\xc3\xa9llo\r\n\r\n" + bytes(range(256)) * 8
LIMIT = 1 << 20


def by_alice(_handle: str) -> Certificate | None:
    return ALICE


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, UnlockedIdentity]]:
    with ExitStack() as stack:
        keys = {"alice": ALICE_KEY, "bob": BOB_KEY, "carol": CAROL_KEY}
        yield {name: stack.enter_context(make_identity(key)) for name, key in keys.items()}


@pytest.fixture
def alice(people: dict[str, UnlockedIdentity]) -> UnlockedIdentity:
    return people["alice"]


@pytest.fixture
def bob(people: dict[str, UnlockedIdentity]) -> UnlockedIdentity:
    return people["bob"]


def refusal(identity: Identity, message: bytes, certificate_of: Callable[[str], Certificate | None] = by_alice) -> str:
    with pytest.raises(OpenPGPError) as error:
        identity.unseal(message, certificate_of, LIMIT)
    return error.value.reason


def test_what_alice_seals_bob_unseals(alice: Identity, bob: Identity) -> None:
    asked: list[str] = []

    def certificate_of(handle: str) -> Certificate | None:
        asked.append(handle)
        return ALICE

    unsealed = bob.unseal(alice.seal(TEXT, [BOB]), certificate_of, LIMIT)
    assert unsealed.data == TEXT
    assert unsealed.signer == ALICE.fingerprint == alice.fingerprint
    names = {*ALICE.key_fingerprints, *(fingerprint[-16:] for fingerprint in ALICE.key_fingerprints)}
    assert asked
    assert set(asked) <= names
    assert not {ALICE.fingerprint, ALICE.fingerprint[-16:]} & set(asked), "Sequoia's keys sign with a subkey"


@given(st.binary(max_size=5000))
def test_every_text_comes_back(people: dict[str, UnlockedIdentity], text: bytes) -> None:
    message = people["alice"].seal(text, [BOB])
    assert people["bob"].unseal(message, by_alice, LIMIT).data == text


def test_a_large_text_comes_back(alice: Identity, bob: Identity) -> None:
    text = os.urandom(6 << 20)
    message = alice.seal(text, [BOB])
    assert bob.unseal(message, by_alice, len(text)).data == text
    with pytest.raises(OpenPGPError):
        bob.unseal(message, by_alice, len(text) - 1)


def test_one_message_for_many_is_split_into_complete_ones(people: dict[str, UnlockedIdentity]) -> None:
    message = people["alice"].seal(TEXT, [CAROL, BOB, ALICE])
    heads, body = split(message)
    assert b"".join([*heads, body]) == message
    for head, name in zip(heads, ["carol", "bob", "alice"], strict=True):
        assert tags_of(head + body) == [Tag.PKESK, Tag.SEIP]
        assert people[name].unseal(head + body, by_alice, LIMIT).data == TEXT
    assert refusal(people["bob"], heads[0] + body) == "not-for-us"


def test_messages_are_of_the_version_that_gnupg_reads(alice: Identity) -> None:
    for message in (alice.seal(TEXT, [BOB, CAROL]), encrypt(TEXT, BOB)):
        *heads, body = packets_of(message)
        assert {head.body[0] for head in heads} == {3}
        assert body.body[0] == 1


def test_nobody_can_read_what_is_encrypted_to_nobody() -> None:
    key = next(found for found in packets_of(CERTIFICATE) if found.tag == Tag.PublicSubkey)
    assert key.body.endswith(b"\x40" + hashlib.sha256(SENTENCE).digest() + b"\x03\x01\x08\x07")


def test_a_message_is_sealed_for_somebody(alice: Identity) -> None:
    with pytest.raises(ValueError, match="recipient"):
        alice.seal(TEXT, [])


def test_an_unsigned_message_is_refused_but_can_be_decrypted(bob: Identity) -> None:
    message = encrypt(TEXT, BOB)
    assert refusal(bob, message) == "unsigned"
    assert bob.decrypt(message, LIMIT) == TEXT


def test_what_is_decrypted_is_bounded(bob: Identity) -> None:
    message = encrypt(TEXT, BOB)
    assert bob.decrypt(message, len(TEXT)) == TEXT
    with pytest.raises(OpenPGPError):
        bob.decrypt(message, len(TEXT) - 1)


def test_a_stranger_is_refused(alice: Identity, bob: Identity) -> None:
    assert refusal(bob, alice.seal(TEXT, [BOB]), lambda _handle: None) == "unknown-signer"


def test_a_signature_by_another_than_the_expected_is_refused(alice: Identity, bob: Identity) -> None:
    assert refusal(bob, alice.seal(TEXT, [BOB]), lambda _handle: CAROL) in ("bad-signature", "malformed")


def revoked(key: pysequoia.Tsk) -> Certificate:
    parts = [bytes(found) for found in packets_of(public(key))]
    revocation = bytes(key.extract_certificate().revoke(key.certifier()))
    return Certificate.parse(b"".join([parts[0], revocation, *parts[1:]]))


def test_a_revoked_signer_is_refused(alice: Identity, bob: Identity) -> None:
    gone = revoked(ALICE_KEY)
    assert refusal(bob, alice.seal(TEXT, [BOB]), lambda _handle: gone) == "revoked"
    with pytest.raises(OpenPGPError) as error:
        verify(TEXT, alice.sign(TEXT), gone)
    assert error.value.reason == "revoked"


def test_nothing_is_sealed_to_a_revoked_recipient(alice: Identity) -> None:
    for action in (lambda: alice.seal(TEXT, [CAROL, revoked(BOB_KEY)]), lambda: encrypt(TEXT, revoked(BOB_KEY))):
        with pytest.raises(OpenPGPError) as error:
            action()
        assert error.value.reason == "revoked"
        assert BOB.fingerprint in error.value.text


def test_a_revoked_key_of_our_own_signs_nothing() -> None:
    identity = UnlockedIdentity(revoked(ALICE_KEY), bytes(ALICE_KEY), "", NoGnuPG())
    for action in (lambda: identity.sign(TEXT), lambda: identity.seal(TEXT, [BOB])):
        with pytest.raises(OpenPGPError) as error:
            action()
        assert error.value.reason == "revoked"


def test_what_follows_a_message_is_refused(alice: Identity, bob: Identity) -> None:
    message = alice.seal(TEXT, [BOB])
    for tail in (message, b"\0", b"-----BEGIN PGP MESSAGE-----", packet(11, b"b\0\0\0\0\0more")):
        assert refusal(bob, message + tail) == "malformed"


SEALED = make_identity(ALICE_KEY).seal(TEXT[:40], [BOB])


@given(st.integers(0, 1 << 16), st.integers(0, 7))
def test_a_damaged_message_is_refused_or_unharmed(people: dict[str, UnlockedIdentity], at: int, bit: int) -> None:
    """Some bits of a session key mean nothing: the top bit of a point on Curve25519, how long an integer says it is."""
    message = bytearray(SEALED)
    at %= len(message)
    message[at] ^= 1 << bit
    try:
        unsealed = people["bob"].unseal(bytes(message), by_alice, LIMIT)
    except OpenPGPError:
        return
    assert at < len(split(SEALED)[0][0])
    assert (unsealed.data, unsealed.signer) == (TEXT[:40], ALICE.fingerprint)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(people: dict[str, UnlockedIdentity], data: bytes) -> None:
    head = split(people["alice"].seal(b"", [BOB]))[0][0]
    for candidate in (data, head + data, head + packet(18, b"\x01" + data)):
        for action in (lambda c: people["bob"].unseal(c, by_alice, LIMIT), lambda c: people["bob"].decrypt(c, LIMIT)):
            with pytest.raises(OpenPGPError):
                action(candidate)


def test_a_detached_signature_is_verified(alice: Identity) -> None:
    signature = alice.sign(TEXT)
    assert tags_of(signature) == [Tag.Signature]
    verify(TEXT, signature, ALICE)


@pytest.mark.parametrize(
    ("data", "spoil", "certificate", "reason"),
    [
        (TEXT + b"x", lambda signature: signature, ALICE, "bad-signature"),
        (TEXT, lambda signature: signature, BOB, "bad-signature"),
        (TEXT, lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]), ALICE, "bad-signature"),
        (TEXT, lambda signature: signature * 2, ALICE, "too-large"),
        (TEXT, lambda signature: signature[:-1], ALICE, "malformed"),
        (TEXT, lambda _signature: b"", ALICE, "malformed"),
        (TEXT, lambda _signature: packet(8, b"\x01compressed"), ALICE, "malformed"),
        (TEXT, lambda signature: signature + bytes(20_000), ALICE, "too-large"),
    ],
)
def test_a_wrong_detached_signature_is_refused(
    alice: Identity, data: bytes, spoil: Callable[[bytes], bytes], certificate: Certificate, reason: str
) -> None:
    with pytest.raises(OpenPGPError) as error:
        verify(data, spoil(alice.sign(TEXT)), certificate)
    assert error.value.reason == reason


def test_a_signed_message_is_no_detached_signature(alice: Identity) -> None:
    inline = pysequoia.sign(ALICE_KEY.signer(), TEXT, armor=False)
    with pytest.raises(OpenPGPError):
        verify(TEXT, inline, ALICE)


def with_two_encryption_keys() -> tuple[pysequoia.Tsk, list[str]]:
    """Return Bob's key with a second encryption subkey, bound by nobody: the first must still be found."""
    donor = packets_of(bytes(make_key()))[-2:]
    parts = packets_of(bytes(BOB_KEY))
    at = max(index for index, found in enumerate(parts) if found.tag == Tag.SecretSubkey)
    tsk = pysequoia.Tsk.from_bytes(b"".join(map(bytes, [*parts[:at], *donor, *parts[at:]])))
    return tsk, [found.key_id.upper() for found in parts if found.tag == Tag.SecretSubkey and found.key_id]


def test_a_subkey_that_is_not_ours_is_never_used(alice: Identity) -> None:
    tsk, key_ids = with_two_encryption_keys()
    with make_identity(tsk) as bob:
        assert [key.key_id for key in bob.certificate.encryption_keys] == key_ids[-1:]
        assert bob.unseal(alice.seal(TEXT, [bob.certificate]), by_alice, LIMIT).data == TEXT


def test_a_wrong_passphrase_is_told_at_once() -> None:
    with pytest.raises(OpenPGPError):
        UnlockedIdentity(ALICE, public(ALICE_KEY), "", NoGnuPG())


def test_gnupg_is_asked_only_for_what_sequoia_refuses(alice: Identity) -> None:
    gnupg = NoGnuPG()
    with make_identity(BOB_KEY, gnupg) as bob:
        message = alice.seal(TEXT, [BOB])
        bob.unseal(message, by_alice, LIMIT)
        assert refusal(bob, encrypt(TEXT, BOB)) == "unsigned"
        assert refusal(bob, message, lambda _handle: None) == "unknown-signer"
        assert refusal(bob, alice.seal(TEXT, [CAROL])) == "not-for-us"
        assert gnupg.asked == 0
        assert refusal(bob, message[:-1] + bytes([message[-1] ^ 1])) == "malformed"
        assert gnupg.asked == 1


def child_of(identity: UnlockedIdentity) -> int:
    """Return the process id of the identity's child."""
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    before = set(children.read_text().split())
    identity.close()
    identity.decrypt(encrypt(b"", identity.certificate), 10)
    (found,) = set(children.read_text().split()) - before or {""}
    return int(found)


def test_a_child_that_died_is_replaced(alice: Identity) -> None:
    with make_identity(BOB_KEY) as bob:
        message = alice.seal(TEXT, [BOB])
        child = child_of(bob)
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert bob.unseal(message, by_alice, LIMIT).data == TEXT
        bob.close()
        assert bob.unseal(message, by_alice, LIMIT).data == TEXT


def test_a_child_that_hangs_is_given_up(alice: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    gnupg = NoGnuPG()
    with make_identity(BOB_KEY, gnupg) as bob:
        message = alice.seal(TEXT, [BOB])
        os.kill(child_of(bob), signal.SIGSTOP)
        monkeypatch.setattr(sandbox_process, "MESSAGE_TIME", 0.05)
        assert refusal(bob, message) == "malformed"
        assert gnupg.asked == 1
        monkeypatch.undo()
        assert bob.unseal(message, by_alice, LIMIT).data == TEXT


def test_an_error_in_the_lookup_leaves_the_identity_usable(alice: Identity, bob: Identity) -> None:
    def broken(_handle: str) -> Certificate | None:
        raise LookupError("the keyring is gone")

    message = alice.seal(TEXT, [BOB])
    with pytest.raises(LookupError):
        bob.unseal(message, broken, LIMIT)
    assert bob.unseal(message, by_alice, LIMIT).data == TEXT


def test_threads_share_an_identity(alice: Identity, bob: Identity) -> None:
    messages = [alice.seal(b"%d" % number, [BOB]) for number in range(40)]
    results: dict[int, bytes] = {}

    def work(part: int) -> None:
        for number in range(part, 40, 4):
            results[number] = bob.unseal(messages[number], by_alice, LIMIT).data

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: b"%d" % number for number in range(40)}
