from datetime import UTC, datetime, timedelta

import pysequoia
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.hkp import MAX_ANSWER, choose, lookup_path, version_of
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.packets import armor
from tests.support.keys import make_key, packets_of, public

BOB = Address.parse("bob@beta.example")
BOB_KEY = make_key("Bob <Bob@beta.example>")
NOW = datetime.now(UTC)
TITLE = "PGP PUBLIC KEY BLOCK"


def answer(*certificates: bytes) -> bytes:
    return armor(b"".join(certificates), TITLE)


def refusal(body: bytes, now: datetime = NOW) -> TemporaryError:
    with pytest.raises(TemporaryError) as error:
        choose(body, BOB, now)
    assert error.value.code == "4.7.5"
    return error.value


@pytest.mark.parametrize(
    ("address", "search"),
    [
        ("bob@beta.example", "bob@beta.example"),
        ("bob+lists@beta.example", "bob%2Blists@beta.example"),
        ("a&op=index#x@beta.example", "a%26op%3Dindex%23x@beta.example"),
        ("böb@beta.example", "b%C3%B6b@beta.example"),
    ],
)
def test_the_question_is_one_that_gnupg_would_ask(address: str, search: str) -> None:
    assert lookup_path(Address.parse(address)) == f"/pks/lookup?op=get&options=mr&exact=on&search={search}"


def test_a_usable_certificate_is_chosen() -> None:
    for body in (answer(public(BOB_KEY)), public(BOB_KEY)):
        assert choose(body, BOB, NOW) == Certificate.parse(public(BOB_KEY))


def test_the_usable_one_of_several_is_chosen() -> None:
    body = answer(public(make_key("Eve <eve@beta.example>")), public(BOB_KEY), revoked(make_key("bob@beta.example")))
    assert choose(body, BOB, NOW).fingerprint == BOB_KEY.extract_certificate().fingerprint.upper()


def revoked(key: pysequoia.Tsk) -> bytes:
    first, *others = [bytes(found) for found in packets_of(public(key))]
    return b"".join([first, bytes(key.extract_certificate().revoke(key.certifier())), *others])


@pytest.mark.parametrize("body", [b"", b"\n", b"<html>no</html>", b"\x99", answer(b""), answer(bytes(BOB_KEY))])
def test_an_answer_without_a_certificate_defers(body: bytes) -> None:
    refusal(body)


@pytest.mark.parametrize(
    "user_id", ["Bob <bob@evil.example>", "Bob <rob@beta.example>", "bob@beta.example <x@y.example>"]
)
def test_another_addresss_certificate_defers(user_id: str) -> None:
    assert "another address" in refusal(answer(public(make_key(user_id)))).text


def test_a_subaddress_is_another_address() -> None:
    with pytest.raises(TemporaryError):
        choose(answer(public(BOB_KEY)), Address.parse("bob+x@beta.example"), NOW)


def test_a_revoked_certificate_defers() -> None:
    assert "is revoked" in refusal(answer(revoked(BOB_KEY))).text


def test_an_expired_certificate_defers() -> None:
    key = pysequoia.Tsk.generate(user_id="bob@beta.example", validity_seconds=3600)
    assert "is expired" in refusal(answer(public(key)), NOW + timedelta(days=1)).text


def test_a_certificate_without_encryption_key_defers() -> None:
    parts = packets_of(public(BOB_KEY))
    assert "cannot be encrypted to" in refusal(answer(b"".join(bytes(found) for found in parts[:-2]))).text


def test_a_huge_answer_defers_unread() -> None:
    assert "larger" in refusal(answer(public(BOB_KEY)) + b"\n" * MAX_ANSWER).text


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: armor(data, TITLE)))
def test_any_bytes_defer(body: bytes) -> None:
    refusal(body)


def with_another_user_id(key: pysequoia.Tsk, user_id: str) -> bytes:
    return bytes(key.extract_certificate().add_user_id(user_id, key.certifier()))


def test_who_is_found_for_one_address_speaks_for_no_other() -> None:
    body = answer(with_another_user_id(BOB_KEY, "Alice <alice@alpha.example>"))
    assert Certificate.parse(body).addresses == {"bob@beta.example", "alice@alpha.example"}
    found = choose(body, BOB, NOW)
    assert found.user_ids == ("Bob <Bob@beta.example>",)
    assert found.addresses == {"bob@beta.example"}
    assert found.problem(NOW) is None


def test_a_user_id_that_was_revoked_does_not_count() -> None:
    certificate = BOB_KEY.extract_certificate()
    gone = certificate.revoke_user_id(certificate.user_ids[0], BOB_KEY.certifier())
    revoked = Certificate.parse(with_revocation(gone))
    assert "bob@beta.example" not in revoked.addresses
    assert "another address" in refusal(answer(revoked.data)).text


def with_revocation(signature: object) -> bytes:
    """Bob's certificate with a revocation of his user ID behind that."""
    packets = [bytes(found) for found in packets_of(public(BOB_KEY))]
    at = next(at for at, found in enumerate(packets_of(public(BOB_KEY))) if found.user_id)
    return b"".join([*packets[: at + 1], bytes(signature), *packets[at + 1 :]])  # type: ignore[call-overload]


def test_a_later_version_of_a_certificate_is_recognised_whatever_its_state() -> None:
    present = Certificate.parse(public(BOB_KEY))
    newer = version_of(present, answer(public(make_key("Eve <eve@beta.example>")), revoked(BOB_KEY)), BOB)
    assert newer is not None
    assert newer.problem(NOW) == "revoked"
    assert present.merged(newer).problem(NOW) == "revoked"
    assert version_of(present, answer(public(make_key("Bob <bob@beta.example>"))), BOB) is None
    assert version_of(present, b"", BOB) is None
    wide = version_of(present, answer(with_another_user_id(BOB_KEY, "Alice <alice@alpha.example>")), BOB)
    assert wide is not None
    assert present.merged(wide) == present
    with pytest.raises(TemporaryError):
        version_of(present, b"<html>", BOB)


def test_a_version_is_no_other_certificate() -> None:
    with pytest.raises(OpenPGPError, match="is not a version of"):
        Certificate.parse(public(BOB_KEY)).merged(Certificate.parse(public(make_key("Bob <bob@beta.example>"))))
