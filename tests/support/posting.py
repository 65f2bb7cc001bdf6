"""What the courier needs to post: people with real OpenPGP keys, a keyring, a resolver, and a store in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.smtp2stub.account import Account
from stubmail.address import Address
from stubmail.discovery import Store, StubDomain, Target
from stubmail.errors import Exit, StubmailError, TemporaryError
from stubmail.key_changes import Change
from stubmail.openpgp import Certificate, Identity
from stubmail.store_answers import Result
from stubmail.store_client import NewPost
from stubmail.users import User
from tests.support.gateway import ALICE, NOW
from tests.support.key_servers import KeyServers
from tests.support.keys import make_identity, make_key

STORE = Store("post.alpha.example", 8080, "post_manager")
OTHER_STORE = Store("new.alpha.example", 8080, "post_manager")


def offer(domain: str, *stores: Store) -> StubDomain:
    """A domain that has stub mail."""
    return StubDomain(domain, (), (Target(f"keys.{domain}", 11371),), stores or (Store(f"post.{domain}", 8080, "p"),))


def person(address: Address) -> Identity:
    """Somebody with a key."""
    return make_identity(make_key(f"<{address}>"))


class MemoryChanges:
    """As KeyChanges."""

    def __init__(self) -> None:
        self.noted: dict[str, Change] = {}

    def __iter__(self) -> Iterator[Change]:
        return iter(self.noted.values())

    def of(self, address: Address) -> Change | None:
        return self.noted.get(address.key)

    def note(self, address: Address, certificate: Certificate, now: float) -> bool:
        known = self.noted.get(address.key)
        self.noted[address.key] = Change(address, certificate, now)
        return known is None or known.certificate != certificate

    def settle(self, address: Address) -> bool:
        return self.noted.pop(address.key, None) is not None


class MemoryKeyring:
    """The certificates that a test gives it, and one secret key."""

    def __init__(self, own: Identity, *others: Certificate) -> None:
        self.own: Identity | StubmailError | Exit = own
        self.certificates = list(others)
        self.unlocked = 0
        self.changes = MemoryChanges()

    def identity(self, address: Address, passphrase: str = "") -> Identity:
        self.unlocked += 1
        if isinstance(self.own, StubmailError | Exit):
            raise self.own
        return self.own

    def find(self, address: Address) -> Certificate | None:
        for key in (address.key, address.base.key):
            for certificate in self.certificates:
                if key in certificate.addresses:
                    return certificate
        return None

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        return next((found for found in self.certificates if found.fingerprint == fingerprint), None)

    def update(self, certificate: Certificate) -> bool:
        present = self.by_fingerprint(certificate.fingerprint)
        assert present is not None
        merged = present.merged(certificate)
        self.certificates[self.certificates.index(present)] = merged
        return merged != present.merged(present)

    def add(self, certificate: Certificate) -> bool:
        if certificate in self.certificates:
            return False
        self.certificates.append(certificate)
        return True


class MemoryResolver:
    """Answers with what a test put into ``answers``; domains that are not there are silent."""

    def __init__(self, **answers: StubDomain | StubmailError | None) -> None:
        self.answers: dict[str, StubDomain | StubmailError | None] = dict(answers)
        self.asked: list[str] = []

    def discover(self, domain: str) -> StubDomain | None:
        self.asked.append(domain)
        answer = self.answers.get(domain, TemporaryError("4.4.3", f"no answer about {domain}"))
        if isinstance(answer, StubmailError):
            raise answer
        return answer


class MemoryStore:
    """A store that keeps what it is given; ``failures`` are raised first, ``errors`` refuse posts by id."""

    def __init__(self) -> None:
        self.store_record = STORE
        self.session = SimpleNamespace(max_post=1_000_000)
        self.posts: dict[bytes, NewPost] = {}
        self.requests: list[int] = []
        self.failures: list[StubmailError] = []
        self.errors: dict[bytes, str] = {}

    def store(self, posts: Sequence[NewPost]) -> list[Result]:
        self.requests.append(len(posts))
        if self.failures:
            raise self.failures.pop(0)
        results = []
        for post in posts:
            if error := self.errors.get(post.id):
                results.append(Result(post.id, "refused", error, "no"))
            else:
                self.posts.setdefault(post.id, post)
                results.append(Result(post.id, "stored"))
        return results


class MemoryAccount(Account):
    """Alice's account at a store in memory; ``connected`` are the stores that it went to."""

    def __init__(
        self,
        keyring: MemoryKeyring,
        resolver: MemoryResolver,
        store: MemoryStore,
        http: Any = None,
        sent: Path | None = None,
    ) -> None:
        user = User("alice", ALICE)
        super().__init__(user, keyring, resolver, http or KeyServers(), lambda: NOW, None, sent)  # type: ignore[arg-type]
        self.keyring = keyring
        self.resolver = resolver
        self.memory = store
        self.connected: list[Store] = []

    def _connect(self, store: Store, identity: Identity) -> Any:
        self.connected.append(store)
        self.memory.store_record = store
        return self.memory
