"""What front and session process say to each other: any octets are a call or a CallError, and calls come back whole."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.system.calls import MAX_CALL, MAX_OCTETS, Answer, CallError, Done, HandOver, Login
from services.pop3d.wire import MAX_RESPONSE

octets = st.binary(max_size=300).map(lambda data: data.decode("latin-1"))


@given(octets, octets, octets, octets)
def test_a_login_comes_back(session: str, address: str, name: str, password: str) -> None:
    login = Login(session, address, name, password)
    assert Login.from_wire(login.to_wire()) == login
    assert len(password) < 3 or password in (session, address, name) or password not in repr(login)


@given(octets, st.booleans())
def test_a_hand_over_comes_back(text: str, encrypted: bool) -> None:
    call = HandOver("USER", encrypted, text)
    assert HandOver.from_wire(call.to_wire()) == call


@given(st.dictionaries(st.text(max_size=20), st.integers(0, 2**60), max_size=5))
def test_counts_come_back(counts: dict[str, int]) -> None:
    assert Done.from_wire(Done(counts).to_wire()).counts == counts


values = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_call_or_an_error(data: bytes) -> None:
    for kind in (Login, Answer, HandOver, Done):
        with contextlib.suppress(CallError):
            assert isinstance(kind.from_wire(data), kind)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 60_000,
        b'{"user": "", "code": "AUTH"}',
        b'{"user": "", "code": "AUTH", "text": "", "more": ""}',
        b'{"user": "", "code": "AUTH", "text": 1}',
        b'{"user": null, "code": "AUTH", "text": ""}',
        b'{"user": "\xff", "code": "", "text": ""}',
        b'{"user": "", "code": "", "text": ""} {}',
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(CallError):
        Answer.from_wire(data)


def test_the_longest_calls_fit() -> None:
    worst = "\xff" * MAX_RESPONSE
    assert len(Login("0" * 8, "f" * 40, worst, "").to_wire()) < MAX_CALL
    assert len(HandOver("SCRAM-SHA-256-PLUS", True, "\xff" * MAX_OCTETS).to_wire()) < MAX_CALL
