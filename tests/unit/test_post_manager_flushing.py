"""Cookies that are flushed are gone at once, and nobody else's are."""

import contextlib
from collections.abc import Iterator

import pytest

from services.post_manager.storage import flushing, sessions
from services.post_manager.storage.database import Database
from stubmail.address import Address
from tests.support.databases import prepared
from tests.support.store_rows import rows

BOB, CAROL = "B" * 40, "C" * 40
NOW = 1_000_000


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with contextlib.closing(prepared(database_url)) as database:
        for number, (fingerprint, address) in enumerate(
            [(BOB, "bob@beta.example"), (BOB, "Bob@beta.example"), (CAROL, "carol@beta.example")]
        ):
            session, cookie = sessions.new_session(fingerprint, address, NOW, bytes([number]) * 16)
            sessions.save(database, session, cookie, NOW)
        yield database


def test_all_cookies(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "AT_ONCE", 2)
    assert flushing.delete_cookies(database) == 3
    assert flushing.delete_cookies(database) == 0
    assert rows(database, "sessions") == 3


def test_one_certificate_s_cookies(database: Database) -> None:
    assert flushing.delete_cookies(database, BOB) == 2
    assert flushing.delete_cookies(database, BOB) == 0
    assert rows(database, "cookies") == 1


def test_an_address_is_found_however_it_is_written(database: Database) -> None:
    assert flushing.fingerprints_of(database, Address.parse("BOB@Beta.Example")) == {BOB}
    assert flushing.fingerprints_of(database, Address.parse("dave@beta.example")) == set()
