"""One mailbox in a From field, and everything that is not exactly one."""

from email.headerregistry import Address as Written

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.mailbox import MailboxError, parse_mailbox


@pytest.mark.parametrize(
    "text",
    [
        "alice@alpha.example",
        " alice@alpha.example ",
        "<alice@alpha.example>",
        "Alice <alice@alpha.example>",
        "Alice B. Carroll <alice@alpha.example>",
        '"Carroll, Alice" <alice@alpha.example>',
        '"mallory@evil.example" <alice@alpha.example>',
        "alice@alpha.example <alice@alpha.example>",
        "=?utf-8?q?Al=C3=AFce?= <alice@alpha.example>",
        "Alïce <alice@alpha.example>",
        "alice@alpha.example (Alice (of alpha) \\) indeed)",
        "(a, b) Alice < alice @ alpha.example (c) >",
        '"alice"@alpha.example',
        "Alice <alice@ALPHA.example>",
    ],
)
def test_one_mailbox_is_found(text: str) -> None:
    assert parse_mailbox(text) == Address("alice", "alpha.example")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Alice",
        "alice@alpha.example, mallory@evil.example",
        "alice@alpha.example mallory@evil.example",
        "Alice <alice@alpha.example>, Mallory <mallory@evil.example>",
        "Alice <alice@alpha.example> <mallory@evil.example>",
        "<mallory@evil.example> alice@alpha.example",
        "Alice <alice@alpha.example> x",
        "Friends: alice@alpha.example;",
        "Friends:;",
        "<@evil.example:alice@alpha.example>",
        "alice@[192.0.2.1]",
        "alice@alpha@example",
        "al ice@alpha.example",
        "alice@alpha example",
        "alice@alpha..example",
        ".alice@alpha.example",
        "<alice@alpha.example",
        "alice@alpha.example>",
        "Alice (unended <alice@alpha.example>",
        'Alice "unended <alice@alpha.example>',
        "alice@alpha.example\x00",
        "Alice\r <alice@alpha.example>",
        "Alice\n <alice@alpha.example>",
        "alice@alpha.example" + " " * 5000,
        '"al ice"@alpha.example',
        '"alice@alpha.example"',
        "<>",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MailboxError):
        parse_mailbox(text)


@given(st.text(alphabet='ab.@<>(),:;"\\ \t\r\n[]é', max_size=40))
def test_any_text_is_one_address_or_an_error(text: str) -> None:
    try:
        found = parse_mailbox(text)
    except MailboxError:
        return
    assert str(found).count("@") == 1
    assert found.local in text.replace("\\", "")


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f")))
def test_whatever_the_name_is_it_does_not_change_the_address(name: str) -> None:
    written = str(Written(name, addr_spec="alice@alpha.example"))
    assert parse_mailbox(written) == Address("alice", "alpha.example")
