"""What stands behind MAIL and RCPT: paths, and who is named twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.parameters import MailParameters, RcptParameters
from services.smtp2stub.transaction import Transaction, Wanted, parse_path
from stubmail.address import Address
from stubmail.errors import PermanentError


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("FROM:<a@b>", ("a@b", "")),
        ("from:<>", ("", "")),
        ("From: <a@b>", ("a@b", "")),
        ("FROM:<a@b> SIZE=1  RET=FULL", ("a@b", "SIZE=1  RET=FULL")),
        ("FROM:<@x,@y:a@b>", ("a@b", "")),
        ("FROM:<a@b> ", ("a@b", "")),
    ],
)
def test_a_path_and_what_follows(argument: str, found: tuple[str, str]) -> None:
    assert parse_path("FROM", argument) == found


@pytest.mark.parametrize(
    ("keyword", "argument", "code"),
    [
        ("FROM", "", "5.5.4"),
        ("FROM", "<a@b>", "5.5.4"),
        ("FROM", "TO:<a@b>", "5.5.4"),
        ("TO", "FROM:<a@b>", "5.5.4"),
        ("FROM", "FROM:", "5.1.7"),
        ("FROM", "FROM:a@b", "5.1.7"),
        ("FROM", "FROM:<a@b", "5.1.7"),
        ("FROM", "FROM:<a@b>SIZE=1", "5.1.7"),
        ("FROM", "FROM:<a b>", "5.1.7"),
        ("TO", "TO:<a\r\nX: y>", "5.1.3"),
        ("TO", "TO:<<a@b>>", "5.1.3"),
        ("TO", "TO:Bob <a@b>", "5.1.3"),
    ],
)
def test_what_is_no_path(keyword: str, argument: str, code: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_path(keyword, argument)
    assert caught.value.code == code


@given(st.text() | st.text(alphabet="TO:<>@ab., \r\n\0").map("TO:".__add__))
def test_any_text_is_a_path_without_blanks_or_an_error(text: str) -> None:
    try:
        address, _ = parse_path("TO", text)
    except PermanentError as error:
        assert error.code in ("5.5.4", "5.1.3")
    else:
        assert not any(char.isspace() or char in "<>" for char in address)


def test_who_is_named_twice_is_kept_once_as_he_was_named_first() -> None:
    transaction = Transaction(None, None, MailParameters())
    bob = Address("bob", "beta.example")
    first, again = Wanted(bob, RcptParameters("NEVER")), Wanted(bob, RcptParameters("SUCCESS"))
    in_capitals = Wanted(Address("BOB", "beta.example"), RcptParameters())  # protocol.md §1.1: the same address
    for wanted in first, again, in_capitals:
        transaction.add(wanted)
    assert list(transaction.recipients.values()) == [first]
    assert len(transaction.taken) == 3
