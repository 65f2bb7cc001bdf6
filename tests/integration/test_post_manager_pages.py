"""Pages of a real file spoiled at many places: the store starts, answers or says 503, and never writes to it again."""

import contextlib
import hashlib
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest

from services.post_manager.storage import backups, damage
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.examination import Damage, Examination
from services.post_manager.storage.snapshot import file_snapshot
from stubmail.errors import Exit
from tests.support.databases import prepared
from tests.support.histories import HEAD, everything
from tests.support.store import NOW, Person, Store, Talker, running_store
from tests.support.store_rows import assert_consistent

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
PAGE = 4096
PLACES = 48


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """The file of a store that has seen something, and the ids of the posts that wait in it."""
    root = tmp_path_factory.mktemp("whole")
    dice = Random(11)
    with running_store(root, [ALICE]) as store:
        alice, bob = store.talker(ALICE), store.talker(BOB)
        ids = [alice.keep(BOB, dice.randbytes(dice.choice((10, 5_000, CHUNK + 9))), HEAD)[0] for _ in range(60)]
        bob.ack(*ids[:20])
        alice.withdraw(*ids[20:25])
    with contextlib.closing(sqlite3.connect(root / "store.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return root / "store.db", ids[25:]


def spoil(path: Path, dice: Random) -> str:
    """Do to a file what disks, programs and people do to files; return what it was."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        match what := dice.choice(("garbage", "garbage", "zeros", "bit", "old", "cut")):
            case "cut":
                file.truncate(dice.randrange(1, size))
                return what
            case "bit":
                file.seek(place := dice.randrange(size))
                octet = file.read(1)[0]
                file.seek(place)
                file.write(bytes([octet ^ 1 << dice.randrange(8)]))
                return what
        for _ in range(dice.choice((1, 1, 4))):
            # Half of them among the first pages, where the tables and indexes begin.
            pages = dice.choice((40, size // PAGE))
            place = dice.randrange(pages) * PAGE
            file.seek(dice.randrange(size // PAGE) * PAGE)
            data = {"garbage": dice.randbytes(PAGE), "zeros": bytes(PAGE), "old": file.read(PAGE)}[what]
            file.seek(place)
            file.write(data)
    return what


def use(store: Store, ids: list[bytes]) -> dict[str, int]:
    """Have both people do everything; return the status of each answer."""
    status: dict[str, int] = {}
    listing = {"senders": [ALICE.fingerprint], "after": 0, "limit": 1000}
    named = {"ids": [ids[0].hex()]}
    post = {"id": "ab" * 16, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    for person in (ALICE, BOB):
        talker = Talker(store, person)
        status[f"{person.address} open"] = talker.open().status_code
        for op, members, parts in (
            ("list", listing, []),
            ("outbox", {"after": 0, "limit": 1000}, []),
            ("store", {"posts": [post]}, [HEAD, b"body"]),
            ("ack", named, []),
            ("withdraw", {"ids": [ids[1].hex()]}, []),
        ):
            status[f"{person.address} {op}"] = talker.send(op, members, parts).status_code
        for post_id in ids[2:]:
            with contextlib.suppress(ConnectionResetError):  # the answer is cut off, and seen to be
                wanted = {"posts": [{"id": post_id.hex(), "offset": 0}]}
                status[f"{person.address} fetch {post_id.hex()}"] = talker.send("fetch", wanted).status_code
    return status


@pytest.mark.parametrize("place", range(PLACES))
def test_a_spoiled_file(tmp_path: Path, whole: tuple[Path, list[bytes]], place: int) -> None:
    path, (original, ids) = tmp_path / "store.db", whole
    shutil.copyfile(original, path)
    what = spoil(path, Random(place))
    print(f"place {place}: {what}")
    with running_store(tmp_path, [ALICE]) as store:
        assert set(use(store, ids).values()) <= {200, 401, 403, 503}
    if damage.is_marked(path):
        before = hashlib.sha256(path.read_bytes()).digest()
        with running_store(tmp_path, [ALICE]) as store:
            assert store.database.read_only
            status = use(store, ids)
            assert set(status.values()) <= {200, 401, 403, 503}
            written = {value for name, value in status.items() if name.endswith(("store", "ack", "withdraw"))}
            assert 200 not in written
        assert hashlib.sha256(path.read_bytes()).digest() == before
    salvage(tmp_path, path)


def salvage(tmp_path: Path, path: Path) -> None:
    """Examine the file, save what is good of it, and put that into a new store."""
    found: list[Damage] = []
    try:
        with file_snapshot(path) as source:
            Examination(source, found.append).run()
        with file_snapshot(path) as source:
            pages = Examination(source, lambda damage: None).sound_posts()
            backups.write(source, pages, tmp_path / "saved", NOW, salvage=True)
    except (StorageError, Exit):
        assert found or damage.is_marked(path)
        return
    with contextlib.closing(prepared(sqlite_url(tmp_path / "new.db"))) as new:
        with backups.opened(tmp_path / "saved") as source:
            sound: list[Damage] = []
            Examination(source, sound.append).run()
            assert [one for one in sound if not one.sealed] == []
            backups.merge(source, new, NOW)
        assert_consistent(new)
        if not found:
            assert len(everything(new)) >= 60
