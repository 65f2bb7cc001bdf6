"""alpha.example for a puller's tests: DNS in the test's process, a real store as a process, and alice who fills it."""

import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from stubmail.address import Address
from stubmail.discovery import Resolver
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.errors import TemporaryError
from stubmail.http_client import HttpClient
from stubmail.openpgp import Certificate, Identity, OpenPGPError, split
from stubmail.store_client import NewPost, StoreClient
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import wait_until

ALICE, BOB = Address("alice", "alpha.example"), Address("bob", "beta.example")

ZONE = """
$ORIGIN example.
$TTL 60
@ SOA ns hostmaster ( 1 3600 600 604800 60 )
@ NS ns
ns A 127.0.0.1
_stub._udp.alpha SRV 10 5 {udp} post.alpha
_pks._tcp.alpha SRV 10 5 11371 keys.alpha
_post._tcp.alpha TXT "10 5 {http} post.alpha.example. post_manager"
post.alpha A 127.0.0.1
keys.alpha A 127.0.0.1
"""


@dataclass
class Alpha:
    """The domain: where its DNS answers, and the store's process."""

    directory: Path
    identity: Identity
    bob: Certificate
    dns: NameServer
    store: subprocess.Popen[bytes]
    stored: list[bytes] = field(default_factory=list)
    sender: Address = ALICE

    @property
    def resolver(self) -> str:
        """ADDRESS:PORT for stub.conf."""
        return f"{self.dns.address[0]}:{self.dns.address[1]}"

    def client(self) -> StoreClient:
        """The sender, who may store: alice unless a test says otherwise."""
        resolver = Resolver(self.dns.address, allow_private=True)
        offer = resolver.discover("alpha.example")
        assert offer is not None
        return StoreClient(HttpClient(resolver), offer.stores[0], self.identity, self.sender)

    def send(self, *messages: bytes) -> list[bytes]:
        """Store messages for bob as alice's gateway would; return their ids."""
        ids = [secrets.token_bytes(16) for _ in messages]
        return self.put(
            [(post_id, self.seal(post_id, message)) for post_id, message in zip(ids, messages, strict=True)]
        )

    def seal(self, post_id: bytes, message: bytes, signer: Identity | None = None, to: Address = BOB) -> bytes:
        """Return the content of a post for bob; ``signer`` and ``to`` are for forgeries."""
        tags = fill_up([tag(post_id, self.bob.fingerprint, to)], secrets.token_bytes)
        text = Envelope(self.sender, datetime.now(UTC), tags).wrap(message)
        return (signer or self.identity).seal(text, [self.bob])

    def put(self, posts: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Store contents as they are."""
        ready = [NewPost(post_id, self.bob.fingerprint, BOB, *_halves(content)) for post_id, content in posts]
        results = self.client().store(ready)
        assert {result.state for result in results} == {"stored"}
        self.stored += [post_id for post_id, _ in posts]
        return [post_id for post_id, _ in posts]

    def states(self) -> dict[bytes, str]:
        """What the store says of all posts stored so far."""
        return {post.id: post.state for post in self.client().outbox().posts if post.id in self.stored}

    def clear(self) -> None:
        """Take back what still waits."""
        if self.stored:
            self.client().withdraw(self.stored)
        self.stored.clear()


@contextmanager
def alpha(directory: Path, identity: Identity, bob: Certificate, settings: str = "") -> Iterator[Alpha]:
    """Run alpha.example with alice as its only account; its files go below ``directory``.

    ``settings``: further lines for [post_manager].
    """
    ports = {"http": free_port(), "udp": free_port()}
    (directory / "accounts.toml").write_text(
        f'[accounts.alice]\naddress = "{ALICE}"\nfingerprint = "{identity.fingerprint}"\n'
    )
    config = directory / "stub.conf"
    config.write_text(f"""\
[domain]
name = "alpha.example"
host = "post.alpha.example"
[post_manager]
listen = "{LOOPBACK}:{ports["http"]}"
admin_listen = ""
udp_listen = "{LOOPBACK}:{ports["udp"]}"
spool = "{directory / "store"}"
accounts = "{directory / "accounts.toml"}"
workers = 1
{settings}
""")
    log = directory / "store.log"
    with NameServer([parse_zone(ZONE.format(**ports))]) as dns, log.open("wb") as output:
        argv = [sys.executable, "-m", "services.post_manager", "--config", str(config)]
        with subprocess.Popen(argv, stderr=output, stdout=output) as store:
            try:
                found = Alpha(directory, identity, bob, dns, store)
                wait_until(lambda: _answers(found), 30, "the store's first answer")
                yield found
            finally:
                store.terminate()
                store.wait(40)


def _answers(found: Alpha) -> bool:
    assert found.store.poll() is None, (found.directory / "store.log").read_text()
    try:
        found.client().open()
    except TemporaryError:
        return False
    return True


def _halves(content: bytes) -> tuple[bytes, bytes]:
    """Head and body; what is no OpenPGP message is all body."""
    try:
        heads, body = split(content)
    except OpenPGPError:
        return b"", content
    return b"".join(heads), body
