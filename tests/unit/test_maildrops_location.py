"""What the users file's maildrop means to those who deliver mail."""

import os
from pathlib import Path

import pytest

from stubmail.errors import Exit
from stubmail.maildrops import Location, parse_maildrop
from stubmail.mbox import Delivery
from stubmail.settings import ConfigError
from stubmail.users import User, load_users


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("mbox:/var/mail/bob", Location("mbox", Path("/var/mail/bob"))),
        ("maildir:/home/bob/Maildir/", Location("maildir", Path("/home/bob/Maildir"))),
        (
            "pipe:/usr/bin/procmail -m 'a file'",
            Location("pipe", command=("/usr/bin/procmail", "-m", "a file")),
        ),
    ],
)
def test_three_kinds(text: str, location: Location) -> None:
    assert parse_maildrop(User("bob", maildrop=text)) == location


def test_without_one_mail_goes_where_the_system_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "bob")
    assert parse_maildrop(User("bob")) == Location("mbox", Path("/var/spool/mail/bob"))
    monkeypatch.setenv("LOGNAME", "../etc/passwd")
    with pytest.raises(ConfigError, match="no user's name"):
        parse_maildrop(User("bob"))


@pytest.mark.parametrize("text", ["mbox:bob", "imap:/x", "pipe:procmail", "pipe:", "pipe:/bin/x 'open"])
def test_what_names_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="user bob: the "):
        parse_maildrop(User("bob", maildrop=text))


def test_paths_are_relative_to_the_users_file_and_commands_are_not(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text('[users.a]\nmaildrop = "maildir:a"\n[users.b]\nmaildrop = "pipe:/bin/cat"\n')
    users = load_users(path)
    found = {user.name: str(parse_maildrop(user)) for user in users}
    assert found == {"a": str(tmp_path / "a"), "b": "/bin/cat"}


def test_the_check_looks_at_each_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for good in (
        Location("mbox", tmp_path / "bob"),
        Location("maildir", tmp_path / "bob"),
        Location("pipe", command=("/bin/cat",)),
    ):
        good.check()
    for bad in (
        Location("mbox", tmp_path / "none" / "bob"),
        Location("mbox", tmp_path),
        Location("maildir", tmp_path / "none" / "bob"),
        Location("maildir", tmp_path),
        Location("pipe", command=(str(tmp_path / "file"),)),
    ):
        with pytest.raises(Exit) as raised:
            bad.check()
        assert raised.value.status in (os.EX_NOPERM, os.EX_CONFIG)


def test_what_a_crash_left_behind_says_nothing_about_another_maildir(tmp_path: Path) -> None:
    first, second = (Location("maildir", tmp_path / name) for name in ("first", "second"))
    state = tmp_path / "state"
    for path in (first.path, second.path):
        for part in ("tmp", "new", "cur"):
            (path / part).mkdir(parents=True)
    state.mkdir()
    message = Delivery("id-1", "alice@alpha.example", 1_800_000_000.0, b"Subject: x\r\n\r\nx\r\n")

    def die(_ids: object) -> None:
        raise KeyboardInterrupt  # after the journal was written, before anything is recorded

    with pytest.raises(KeyboardInterrupt):
        first.open(state, "bob", "bob@beta.example", 5, 5).deliver([message], die)
    recorded: list[str] = []
    second.open(state, "bob", "bob@beta.example", 5, 5).deliver([message], recorded.extend)
    assert recorded == ["id-1"]
    assert len(list((second.path / "new").iterdir())) == 1
