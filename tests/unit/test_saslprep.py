"""SASLprep by the examples of RFC 4013 §3, and that nothing else than PrepError comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.saslprep import PrepError, saslprep


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("e\u0301", "\u00e9"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("", ""),
    ],
)
def test_what_looks_the_same_is_the_same(text: str, expected: str) -> None:
    assert saslprep(text) == expected


@pytest.mark.parametrize(
    "text", ["\u0007", "\u06271", "a\0b", "\ue000", "\u200e", "\u0627a\u0628", "\ufffd", "\U000e0041"]
)
def test_what_no_name_may_have(text: str) -> None:
    with pytest.raises(PrepError):
        saslprep(text)


def test_characters_that_unicode_3_2_does_not_know_may_be_asked_for_but_not_stored() -> None:
    assert saslprep("\u0221") == "\u0221"
    with pytest.raises(PrepError):
        saslprep("\u0221", stored=True)


@given(st.text())
def test_prepared_once_is_prepared(text: str) -> None:
    try:
        prepared = saslprep(text)
    except PrepError:
        return
    assert prepared == saslprep(prepared)
