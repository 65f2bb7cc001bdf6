from datetime import UTC, datetime, timedelta

import pysequoia
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.hkp import MAX_ANSWER, choose, fetch_certificate, lookup_path
from stubmail.openpgp import Certificate
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


def test_what_is_got_is_what_is_chosen_from() -> None:
    asked = []

    def get(path: str) -> bytes:
        asked.append(path)
        return answer(public(BOB_KEY))

    assert fetch_certificate(get, BOB, NOW).addresses == {"bob@beta.example"}
    assert asked == [lookup_path(BOB)]


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
