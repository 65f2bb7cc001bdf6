"""Errors: what they carry, and that their texts stay on one printable line whatever strangers put into them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.errors import Exit, PermanentError, StubmailError, TemporaryError, one_line


@pytest.mark.parametrize("kind", [TemporaryError, PermanentError])
def test_code_and_text(kind: type[StubmailError]) -> None:
    error = kind("4.4.3", "the name server does not answer")
    assert (error.code, error.text) == ("4.4.3", "the name server does not answer")
    assert str(error) == "4.4.3 the name server does not answer"


def test_exit_carries_a_status() -> None:
    error = Exit(78, "stub.conf is missing")
    assert (error.status, error.text, str(error)) == (78, "stub.conf is missing", "stub.conf is missing")


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()
    assert StubmailError("4.0.0", text).text.isprintable()
    assert Exit(1, text).text.isprintable()


@given(st.text())
def test_printable_text_stays_as_it_is(text: str) -> None:
    if text.isprintable():
        assert one_line(text) == text.strip()


def test_what_a_stranger_sends_cannot_command_a_terminal_or_forge_a_line() -> None:
    assert one_line("no\r\nRCPT TO:<x>\x1b[2J\u2028\u202e\ud800") == "no  RCPT TO:<x>?[2J ??"
