"""The cookie jar: what it keeps, and that losing it at any time does no harm."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.cookies import Cookie, CookieJar, Seen, account_directory, flush

STORE, OTHER = "http://post.alpha.example:8080/post_manager", "https://post.gamma.example/p"
ID, KEY = bytes(range(16)), bytes(range(32))
SEEN = Seen(7, "digest", 5000.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cookies.json"


@pytest.fixture
def jar(path: Path) -> CookieJar:
    jar = CookieJar(path)
    jar.put(STORE, ID, KEY)
    jar.saw(STORE, SEEN)
    jar.save()
    return jar


def reread(path: Path) -> CookieJar:
    jar = CookieJar(path)
    jar.refresh()
    return jar


def test_cookies_survive_the_process(jar: CookieJar, path: Path) -> None:
    assert reread(path).get(STORE) == Cookie(ID, KEY, SEEN)
    assert path.stat().st_mode & 0o077 == 0


def test_a_new_cookie_keeps_what_was_seen_at_the_store(jar: CookieJar) -> None:
    jar.put(STORE, bytes(16), bytes(32))
    assert jar.get(STORE) == Cookie(bytes(16), bytes(32), SEEN)


def test_nothing_is_seen_without_a_cookie(jar: CookieJar) -> None:
    jar.saw(OTHER, SEEN)
    assert jar.get(OTHER) is None


def test_a_jar_that_is_in_use_notices_that_its_file_is_deleted(jar: CookieJar, path: Path) -> None:
    path.unlink()
    jar.refresh()
    assert jar.get(STORE) is None


def test_a_jar_that_is_in_use_notices_a_flush_and_keeps_what_came_since(jar: CookieJar, path: Path) -> None:
    jar.put(OTHER, ID, KEY)
    assert flush(path) == 1
    jar.save()
    assert jar.get(STORE) is None
    assert reread(path).get(OTHER) == Cookie(ID, KEY)
    assert reread(path).get(STORE) is None


def test_flushing_what_is_not_there_is_no_error(path: Path) -> None:
    assert flush(path) == 0


def test_saving_without_changes_writes_nothing(jar: CookieJar, path: Path) -> None:
    before = path.stat().st_mtime_ns, path.stat().st_ino
    jar.save()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"version": 2, "cookies": {}}',
        b'{"version": 1, "cookies": []}',
        b'{"version": 1, "cookies": {"s": {"id": "00", "key": "00", "seen": null}}}',
        b'{"version": 1, "cookies": {"s": {"id": 3, "key": "00", "seen": null}}}',
        b"[" * 100_000,
    ],
)
def test_a_corrupt_file_is_an_empty_jar(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    jar = reread(path)
    assert jar.get("s") is None
    jar.put(STORE, ID, KEY)
    jar.save()
    assert reread(path).get(STORE) == Cookie(ID, KEY)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=1))
def test_any_damaged_octet_leaves_a_usable_jar(
    tmp_path_factory: pytest.TempPathFactory, position: int, octet: bytes
) -> None:
    path = tmp_path_factory.mktemp("jar") / "cookies.json"
    jar = CookieJar(path)
    jar.put(STORE, ID, KEY)
    jar.saw(STORE, SEEN)
    jar.save()
    data = bytearray(path.read_bytes())
    data[position % len(data)] = octet[0]
    path.write_bytes(data)
    found = reread(path).get(STORE)
    assert found is None or (len(found.id), len(found.key)) == (16, 32)


def test_numbers_that_are_none_are_not_believed(path: Path) -> None:
    path.write_bytes(
        json.dumps({"version": 1, "cookies": {STORE: {"id": ID.hex(), "key": KEY.hex(), "seen": 3}}}).encode()
    )
    assert reread(path).get(STORE) is None


@pytest.mark.parametrize("local", ["bob", "b/o/b", "a.b", "bøb", "%2e", "b?b"])
def test_an_accounts_directory_is_one_plain_name_of_its_own(tmp_path: Path, local: str) -> None:
    directory = account_directory(tmp_path, Address(local, "beta.example"))
    assert directory.parent == tmp_path
    assert directory != account_directory(tmp_path, Address(local + "x", "beta.example"))
    directory.mkdir()
