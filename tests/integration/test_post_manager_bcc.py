"""One message for fifty recipients: kept once, and each gets a message of his own that tells of nobody else."""

import contextlib
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from services.smtp2stub.keys import Addressee
from services.smtp2stub.sealing import Destination, seal
from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.frames import Frame
from stubmail.http_client import HttpClient
from stubmail.openpgp import Certificate, Identity
from stubmail.store_client import StoreClient
from tests.support.fakes import FakeResolver
from tests.support.gpg import gpg_home, need
from tests.support.keys import make_identity, make_key, public
from tests.support.store import HOST, Person
from tests.support.store_process import StoreProcess

RECIPIENTS = 50
MESSAGE = 5 * 2**20  # octets
ROOM = 6_000_000  # octets of store for all of it
SENDER = Address("alice", "alpha.example")
SEED = 20


class Recipient:
    """Somebody with a key, a session at the store, and a post that waits for him."""

    def __init__(self, number: int, seeded: random.Random) -> None:
        self.address = Address(f"r{number}", "beta.example")
        self.key = make_key(f"<{self.address}>")
        self.certificate = Certificate.parse(public(self.key))
        self.key_ids = {key.key_id for key in self.certificate.encryption_keys}
        self.destination = Destination(number, seeded.randbytes(16), Addressee(self.address, self.certificate))


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[tuple[StoreProcess, Callable[[], int]]]:
    """A store on a file, and how large that is."""
    store = StoreProcess(tmp_path, [])
    path = store.spool / "store.db"

    def size() -> int:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            files = list(path.parent.glob("store.db*"))
        return sum(file.stat().st_size for file in files)

    yield store, size
    store.close()


@pytest.fixture
def postgresql_store(tmp_path: Path, postgresql_url: str) -> Iterator[tuple[StoreProcess, Callable[[], int]]]:
    """A store on a server, and how large its database is."""
    store = StoreProcess(tmp_path, [], database=postgresql_url)

    def size() -> int:
        with contextlib.closing(psycopg.connect(postgresql_url)) as connection:
            rows = connection.execute("SELECT pg_database_size(current_database())").fetchall()
        return int(rows[0][0])

    yield store, size
    store.close()


@pytest.mark.parametrize("fixture", ["sqlite_store", pytest.param("postgresql_store", marks=pytest.mark.postgresql)])
def test_a_message_for_fifty_is_kept_once_and_shows_each_of_them_his_own_key_alone(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    need("gpg", "gnupg")
    store, size = request.getfixturevalue(fixture)
    seeded = random.Random(SEED)
    message = b"From: alice@alpha.example\r\n\r\n" + seeded.randbytes(MESSAGE)
    alice = Person(str(SENDER))
    recipients = [Recipient(number, seeded) for number in range(RECIPIENTS)]
    store.allow([alice])
    store.start()
    empty = size()

    with contextlib.closing(make_identity(alice.key)) as identity:
        destinations = [recipient.destination for recipient in recipients]
        posts = seal(identity, SENDER, message, destinations, datetime(2026, 11, 21, tzinfo=UTC))
        results = client(store, identity, SENDER).store(posts)
    assert [result.state for result in results] == ["stored"] * RECIPIENTS
    assert size() - empty < ROOM

    everybody = {key_id for recipient in recipients for key_id in recipient.key_ids}
    assert len(everybody) == RECIPIENTS
    for recipient in recipients:
        content = fetch_only(store, recipient, alice.fingerprint)
        start, _, rest = content.partition(posts[0].body)
        assert rest == b""
        for key_id in everybody - recipient.key_ids:
            assert bytes.fromhex(key_id) not in start
        decrypts_with_gpg_alone(recipient, alice, content, message)
    for key_id in everybody:
        assert bytes.fromhex(key_id) not in posts[0].body
    assert size() < empty + ROOM


def client(store: StoreProcess, identity: Identity, address: Address) -> StoreClient:
    http = HttpClient(FakeResolver())  # type: ignore[arg-type]
    return StoreClient(http, Store(HOST, store.http, "post_manager"), identity, address)


def fetch_only(store: StoreProcess, recipient: Recipient, sender: str) -> bytes:
    """What the store has for a recipient: one post, the one that was meant for him."""
    with contextlib.closing(make_identity(recipient.key)) as identity:
        talker = client(store, identity, recipient.address)
        listing = talker.list([sender])
        assert [post.id for post in listing.posts] == [recipient.destination.post_id]
        events = list(talker.fetch([(recipient.destination.post_id, 0)]))
    assert isinstance(events[0], Frame)
    content = b"".join(event for event in events if isinstance(event, bytes))
    assert len(content) == events[0].length == listing.posts[0].size
    return content


def decrypts_with_gpg_alone(recipient: Recipient, alice: Person, content: bytes, message: bytes) -> None:
    with gpg_home() as home:
        home.run("--import", data=bytes(recipient.key))
        home.run("--import", data=alice.certificate)
        packets = home.run("--list-packets", "--list-only", data=content).stdout.decode()
        assert {*re.findall(r"keyid ([0-9A-F]{16})", packets)} == recipient.key_ids
        assert packets.count(":pubkey enc packet:") == 1
        status = home.path / "status"
        done = home.run("--trust-model=always", f"--status-file={status}", "--decrypt", data=content)
        lines = status.read_bytes().decode("latin-1").splitlines()
    assert done.stdout.partition(b"\r\n\r\n")[2] == message
    said = [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ")]
    assert [words[1] for words in said if words[0] == "ENC_TO"] == list(recipient.key_ids)
    assert [words[-1] for words in said if words[0] == "VALIDSIG"] == [alice.fingerprint]
    assert {"DECRYPTION_OKAY", "GOODMDC"} <= {words[0] for words in said}
