"""The auth file of popcl and pop3d: two lines, and what is said when they are not there."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.auth_file import MAX_FILE, MAX_VALUE, Credentials, parse, read
from stubmail.errors import Exit

GOOD = b"username = bob\npassword = secret\n"


@pytest.mark.parametrize(
    ("content", "name", "password"),
    [
        (GOOD, "bob", "secret"),
        (b"password = secret\nusername = bob", "bob", "secret"),
        (b"username=bob\r\npassword=secret\r\n\r\n", "bob", "secret"),
        (
            b"\xef\xbb\xbf username\t=  bob@beta.example \n\npassword = two  spaces \n",
            "bob@beta.example",
            "two  spaces ",
        ),
        (b"username = bob\npassword =  = # ;\n", "bob", " = # ;"),
        ("username = žofie\npassword = heslo€\n".encode(), "žofie", "heslo€"),
    ],
)
def test_the_two_lines(content: bytes, name: str, password: str) -> None:
    assert parse(content) == Credentials(name, password)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "'username = …' is missing"),
        (b"username = bob\n", "'password = …' is missing"),
        (b"password = secret\n", "'username = …' is missing"),
        (GOOD + b"username = eve\n", "line 3 gives the username a second time"),
        (GOOD + b"port = 110\n", "line 3 is neither"),
        (b"bob\nsecret\n", "line 1 is neither"),
        (b"# me\n" + GOOD, "line 1 is neither"),
        (b"Username = bob\npassword = secret\n", "line 1 is neither"),
        (b"username = \npassword = secret\n", "line 1: the username is empty"),
        (b"username = bob\npassword =\n", "line 2: the password is empty"),
        (b"username = bob\rRSET\npassword = secret\n", "line 1: the username has a control character"),
        (b"username = bob\npassword = a\0b\n", "line 2: the password has a control character"),
        (b"username = " + b"b" * (MAX_VALUE + 1) + b"\npassword = s\n", "over 248 octets"),
        (b"username = b\xff\npassword = secret\n", "not UTF-8"),
        (GOOD + b"\n" * MAX_FILE, "more than 4096 octets"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse(content)


@given(
    st.binary() | st.lists(st.sampled_from([b"username", b"password", b"=", b" ", b"\n", b"\r", b"x"])).map(b"".join)
)
def test_any_content_is_credentials_fit_for_a_command_or_an_error(content: bytes) -> None:
    try:
        credentials = parse(content)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for value in (credentials.username, credentials.password):
        assert value
        assert not set(value) & {"\r", "\n", "\0"}
        assert len(f"PASS {value}\r\n".encode()) <= 255


def test_a_wrong_line_is_not_quoted_for_it_may_be_the_password() -> None:
    with pytest.raises(ValueError, match="line 2") as caught:
        parse(b"username = bob\nhunter2\n")
    assert "hunter2" not in str(caught.value)
    assert "secret" not in repr(parse(GOOD))


def test_a_file_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_bytes(GOOD)
    for mode, exposed in ((0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o644, True)):
        path.chmod(mode)
        assert read(path) == (Credentials("bob", "secret"), exposed)


def test_what_cannot_be_read_and_what_is_wrong_have_their_exit_statuses(tmp_path: Path) -> None:
    for path, status in ((tmp_path / "none", os.EX_NOINPUT), (tmp_path, os.EX_NOINPUT)):
        with pytest.raises(Exit, match="cannot read the auth file") as caught:
            read(path)
        assert caught.value.status == status
    (tmp_path / "auth").write_bytes(b"bob:secret\n")
    with pytest.raises(Exit, match="auth: line 1 is neither") as caught:
        read(tmp_path / "auth")
    assert caught.value.status == os.EX_CONFIG
