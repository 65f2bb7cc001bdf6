"""The accounts of a puller, opened without GnuPG."""

from pathlib import Path

import pytest

from services.http2mbox import accounts
from services.http2mbox.accounts import Accounts
from services.http2mbox.settings import Http2mbox
from stubmail.cookies import FILE_NAME, CookieJar
from stubmail.users import User


class FakeIdentity:
    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1


class FakeAccount:
    def __init__(self, directory: Path) -> None:
        self.jar = CookieJar(directory / FILE_NAME)
        self.identity = FakeIdentity()

    def recover(self) -> None:
        """Nothing is left behind."""

    def close(self, patience: float = -1) -> bool:
        return True


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Http2mbox:
    def open_account(user: User, directory: Path, lock_seconds: float, pipe_seconds: float) -> FakeAccount:
        return FakeAccount(directory)

    monkeypatch.setattr(accounts, "open_account", open_account)
    return Http2mbox(users=tmp_path / "users.toml", state=tmp_path / "state")


def prepared(options: Http2mbox, *names: str) -> list[int]:
    text = '[users.{0}]\naddress = "{0}@beta.example"\ngnupghome = "/nowhere"\n'
    options.users.write_text("".join(map(text.format, names)))
    opened = Accounts(options)
    opened.reload()
    opened.prepare()
    try:
        return [account.identity.prepared for account in opened]
    finally:
        opened.close()


def test_an_account_alone_that_will_open_a_session_gets_ready_at_once(options: Http2mbox) -> None:
    assert prepared(options, "bob") == [1]


def test_one_with_a_cookie_may_have_nothing_to_decrypt(options: Http2mbox) -> None:
    directory = options.state / "bob@beta.example"
    directory.mkdir(parents=True)
    jar = CookieJar(directory / FILE_NAME)
    jar.put("https://post.alpha.example/post_manager", bytes(16), bytes(32))
    jar.save()
    assert prepared(options, "bob") == [0]


def test_many_get_ready_when_their_turn_comes(options: Http2mbox) -> None:
    assert prepared(options, "amy", "bob") == [0, 0]
