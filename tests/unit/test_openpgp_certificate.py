import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pysequoia
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysequoia.packet import SignatureType, Tag

from stubmail.openpgp import MAX_CERTIFICATE, Certificate, OpenPGPError
from stubmail.openpgp.certificate import address_of
from tests.support.keys import make_key, packet, packets_of, public, tags_of

NOW = datetime.now(UTC)
ALICE = make_key()
ALICE_PUBLIC = public(ALICE)
USER_ATTRIBUTE = packet(17, b"\x02\x01a")


def reason_for(data: bytes) -> str:
    with pytest.raises(OpenPGPError) as refusal:
        Certificate.parse(data)
    return refusal.value.reason


def test_a_certificate_says_whose_it_is() -> None:
    certificate = Certificate.parse(ALICE_PUBLIC)
    assert certificate.fingerprint == ALICE.extract_certificate().fingerprint.upper()
    assert certificate.user_ids == ("Alice <alice@alpha.example>",)
    assert certificate.addresses == {"alice@alpha.example"}
    assert certificate.problem(NOW) is None
    assert len(certificate.key_fingerprints) == 3
    assert abs(certificate.created - NOW) < timedelta(minutes=5)
    with pytest.raises(FrozenInstanceError):
        certificate.data = b""  # type: ignore[misc]


def test_binary_and_armour_are_the_same() -> None:
    certificate = Certificate.parse(ALICE_PUBLIC)
    assert Certificate.parse(certificate.armored()) == certificate
    assert Certificate.parse(str(ALICE.extract_certificate()).encode()) == certificate
    assert Certificate.parse(certificate.data) == certificate
    assert pysequoia.Cert.from_bytes(certificate.armored()).fingerprint == certificate.fingerprint.lower()


def test_a_secret_key_is_refused() -> None:
    assert reason_for(bytes(ALICE)) == "malformed"
    assert reason_for(str(ALICE).encode()) == "malformed"


def test_more_than_one_certificate_is_refused() -> None:
    assert reason_for(ALICE_PUBLIC + public(make_key())) == "malformed"
    assert reason_for(ALICE_PUBLIC * 2) == "malformed"


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<html>", ALICE_PUBLIC[:-1], ALICE_PUBLIC[52:], b"\x00" + ALICE_PUBLIC, packet(13, b"Alice")],
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    assert reason_for(data) == "malformed"


def test_size_is_bounded_before_anything_is_read() -> None:
    assert reason_for(b"\x00" * (MAX_CERTIFICATE + 1)) == "too-large"
    assert reason_for(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + b"A" * 2 * MAX_CERTIFICATE) == "too-large"
    assert reason_for(packet(13, b"") * 5000) != "unsupported"


def test_a_flood_of_user_ids_is_refused() -> None:
    assert reason_for(ALICE_PUBLIC + packet(13, b"x") * 3000) == "too-large"


def test_an_oversized_key_is_refused() -> None:
    assert reason_for(packet(6, packets_of(ALICE_PUBLIC)[0].body + bytes(5000))) == "unsupported"


def test_what_the_owner_did_not_sign_is_dropped() -> None:
    certified = ALICE.extract_certificate()
    mallory = make_key("Mallory <mallory@evil.example>")
    foreign = mallory.extract_certificate().add_user_id("Alice <alice@alpha.example>", mallory.certifier())
    third_party = next(
        bytes(found)
        for found in packets_of(bytes(foreign))
        if found.signature_type == SignatureType.PositiveCertification
    )
    parts = [bytes(found) for found in packets_of(bytes(certified))]
    user_id = next(index for index, found in enumerate(packets_of(bytes(certified))) if found.tag == Tag.UserID)
    flooded = b"".join([*parts[: user_id + 2], third_party, packet(12, b"\x01\x02"), *parts[user_id + 2 :]])
    extras = USER_ATTRIBUTE + third_party + packet(60, b"private") + packet(40, b"unknown") + packet(10, b"PGP")
    assert Certificate.parse(flooded + extras) == Certificate.parse(ALICE_PUBLIC)


@pytest.mark.parametrize("user_id", ["Eve\n<eve@evil.example>", "Eve\u2028[GNUPG:] <eve@evil.example>", "E" * 2000])
def test_user_ids_that_cannot_be_shown_are_dropped(user_id: str) -> None:
    certificate = Certificate.parse(public(make_key(user_id)))
    assert certificate.user_ids == ()
    assert certificate.addresses == frozenset()
    assert Tag.UserID not in tags_of(certificate.data)


def test_a_revoked_user_id_is_not_listed() -> None:
    key = make_key()
    two = key.extract_certificate().add_user_id("Alice <alice@gamma.example>", key.certifier())
    gone = next(user_id for user_id in two.user_ids if "gamma" in str(user_id))
    revocation = bytes(two.revoke_user_id(gone, key.certifier()))
    parts = packets_of(bytes(two))
    at = next(index for index, found in enumerate(parts) if found.user_id == str(gone)) + 1
    data = b"".join(map(bytes, parts[:at])) + revocation + b"".join(map(bytes, parts[at:]))
    assert Certificate.parse(bytes(two)).addresses == {"alice@alpha.example", "alice@gamma.example"}
    assert Certificate.parse(data).addresses == {"alice@alpha.example"}


def test_a_key_without_user_ids_has_no_addresses() -> None:
    certificate = Certificate.parse(public(make_key(None)))
    assert (certificate.user_ids, certificate.addresses) == ((), frozenset())


def test_a_revoked_certificate_says_so() -> None:
    key = make_key()
    parts = [bytes(found) for found in packets_of(public(key))]
    revocation = bytes(key.extract_certificate().revoke(key.certifier()))
    certificate = Certificate.parse(b"".join([parts[0], revocation, *parts[1:]]))
    assert certificate.problem(NOW) == "revoked"
    assert certificate.signing_problem(NOW) == "revoked"


def test_a_forged_revocation_means_nothing() -> None:
    parts = [bytes(found) for found in packets_of(ALICE_PUBLIC)]
    mallory = make_key()
    revocation = bytes(mallory.extract_certificate().revoke(mallory.certifier()))
    damaged = bytearray(bytes(ALICE.extract_certificate().revoke(ALICE.certifier())))
    damaged[-1] ^= 1
    for forged in (revocation, bytes(damaged)):
        assert Certificate.parse(b"".join([parts[0], forged, *parts[1:]])).problem(NOW) is None


def test_expiry_is_judged_by_the_time_given() -> None:
    key = pysequoia.Tsk.generate(user_id="Alice <alice@alpha.example>", validity_seconds=86400)
    certificate = Certificate.parse(public(key))
    assert certificate.expires is not None
    assert certificate.problem(certificate.expires - timedelta(seconds=1)) is None
    assert certificate.problem(certificate.expires) == "expired"
    assert certificate.signing_problem(certificate.expires) == "expired"


def without_encryption_key() -> bytes:
    parts = packets_of(ALICE_PUBLIC)
    at = max(index for index, found in enumerate(parts) if found.tag == Tag.PublicSubkey)
    return b"".join(bytes(found) for found in parts[:at])


def test_a_certificate_that_only_signs_cannot_be_encrypted_to() -> None:
    certificate = Certificate.parse(without_encryption_key())
    assert certificate.problem(NOW) == "cannot-encrypt"
    assert certificate.signing_problem(NOW) is None


def test_somebody_elses_subkey_is_no_way_to_encrypt() -> None:
    stolen = packets_of(public(make_key()))[-2:]
    certificate = Certificate.parse(without_encryption_key() + b"".join(map(bytes, stolen)))
    assert certificate.problem(NOW) == "cannot-encrypt"


def test_the_newest_encryption_key_is_the_only_one_of_its_certificate() -> None:
    (key,) = Certificate.parse(ALICE_PUBLIC).encryption_keys
    assert key.expires is None
    assert tags_of(pysequoia.encrypt(b"x", [pysequoia.Cert.from_bytes(key.certificate)], armor=False)) == [
        Tag.PKESK,
        Tag.SEIP,
    ]


@pytest.mark.parametrize(
    ("user_id", "address"),
    [
        ("Alice <alice@alpha.example>", "alice@alpha.example"),
        ("Alice (work) <Alice@ALPHA.example>", "alice@alpha.example"),
        ("alice@alpha.example", "alice@alpha.example"),
        ("<alice@alpha.example>", "alice@alpha.example"),
        ("Älice <alice@älpha.example>", "alice@xn--lpha-koa.example"),
        ("Alice <alice@alpha.example", None),
        ("Alice alice@alpha.example", None),
        ("bob@beta.example <alice@alpha.example>", None),
        ("Alice <alice@alpha.example> <bob@beta.example>", None),
        ("Alice", None),
        ("", None),
        ("Alice <alice@@alpha.example>", None),
        ("Alice <alice@>", None),
    ],
)
def test_a_user_id_holds_exactly_one_address_or_none(user_id: str, address: str | None) -> None:
    found = address_of(user_id)
    assert (found.key if found else None) == address


@given(st.binary(max_size=200))
def test_any_bytes_are_a_certificate_or_refused(data: bytes) -> None:
    for candidate in (data, ALICE_PUBLIC + data, ALICE_PUBLIC[:60] + data):
        try:
            Certificate.parse(candidate)
        except OpenPGPError as error:
            assert error.code.startswith("5.")


@given(st.data())
def test_a_damaged_certificate_is_refused_or_still_this_one(data: st.DataObject) -> None:
    damaged = bytearray(ALICE_PUBLIC)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(53, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        certificate = Certificate.parse(bytes(damaged))
    except OpenPGPError:
        return
    assert certificate.fingerprint == ALICE.extract_certificate().fingerprint.upper()
    assert certificate.addresses <= {"alice@alpha.example"}
    assert certificate.problem(NOW) in (None, "cannot-encrypt")


def test_errors_of_sequoia_s_come_without_a_trace_whatever_the_environment_asks_for() -> None:
    program = (
        "import stubmail.openpgp, pysequoia\n"
        "try: pysequoia.Cert.from_bytes(b'')\n"
        "except Exception as error: print(error)"
    )
    environment = os.environ | {"RUST_BACKTRACE": "1", "RUST_LIB_BACKTRACE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
