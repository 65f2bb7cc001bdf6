"""A post manager inside the test's process, and people who talk to it octet by octet."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysequoia
from werkzeug.test import Client, TestResponse

from services.post_manager import directory, service
from services.post_manager.counters import Counters
from services.post_manager.http.app import create_app
from services.post_manager.http.assembly import make_edge
from services.post_manager.policy import Account, Accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.database import Database
from stubmail.address import Address
from stubmail.frames import Frame, FrameReader
from stubmail.request import mac
from stubmail.wsgi_later import WsgiApp

HOST = "post.alpha.example"
URL = "/post_manager"
NOW = 1_800_000_000
BOUNDARY = "0123456789abcdef"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class HttpClient(Client):
    """Sends requests to an application, from loopback; ``environ_base`` goes into each one's environment."""

    def __init__(self, app: WsgiApp) -> None:
        super().__init__(app)
        self.environ_base = {"REMOTE_ADDR": "127.0.0.1"}

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send one."""
        kwargs["environ_base"] = self.environ_base | kwargs.get("environ_base", {})
        return super().open(*args, **kwargs)


class Person:
    """Somebody with a certificate of his own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.key = pysequoia.Tsk.generate(f"<{address}>")
        certificate = self.key.extract_certificate()
        self.certificate = bytes(certificate)
        self.fingerprint = certificate.fingerprint.upper()

    def sign(self, data: bytes) -> bytes:
        """Return a detached signature."""
        return bytes(pysequoia.sign(self.key.signer(), data, mode=pysequoia.SignatureMode.DETACHED, armor=False))

    def decrypt(self, data: bytes) -> bytes:
        """Open what the store encrypted to this person."""
        return bytes(pysequoia.decrypt(data, decryptor=self.key.decryptor()).bytes)


def multipart(parts: Iterable[tuple[str, bytes]], boundary: str = BOUNDARY) -> bytes:
    """Return a multipart/form-data body."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def describe(parts: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the member ``parts`` for these further parts."""
    return [{"sha256": hashlib.sha256(part).hexdigest(), "size": len(part)} for part in parts]


@dataclass
class Talker:
    """One client with a session of his own; ``send`` builds each request by hand, so that a test can spoil it."""

    store: "Store"
    person: Person
    session: dict[str, Any] = field(default_factory=dict)

    def open(self, **spoil: Any) -> TestResponse:
        """Open a session; ``spoil`` overrides members of the request."""
        data = self.request("open", {}, [self.person.certificate])
        data |= {"fingerprint": self.person.fingerprint, "address": self.person.address}
        data.pop("session")
        octets = json.dumps(data | spoil).encode()
        parts = [("request", octets), ("signature", self.person.sign(octets)), ("certificate", self.person.certificate)]
        response = self.store.post(multipart(parts))
        if response.status_code == 200:
            self.session = json.loads(self.person.decrypt(response.data))
        return response

    def request(self, op: str, members: dict[str, Any], parts: Iterable[bytes] = ()) -> dict[str, Any]:
        """Return a request's JSON as a dictionary."""
        return {
            "version": 1,
            "op": op,
            "host": HOST,
            "time": int(self.store.clock()),
            "nonce": secrets.token_hex(16),
            "parts": describe(parts),
            "session": self.session.get("session", "0" * 32),
            **members,
        }

    def send(self, op: str, members: dict[str, Any], parts: Iterable[bytes] = (), /, **spoil: Any) -> TestResponse:
        """Send a request with the session's MAC; ``spoil`` overrides members."""
        parts = list(parts)
        octets = json.dumps(self.request(op, members, parts) | spoil).encode()
        return self.store.post(self.body(octets, parts))

    def body(self, octets: bytes, parts: Iterable[bytes] = ()) -> bytes:
        """Return the body for a request's octets, with its MAC and the further parts."""
        secret = bytes.fromhex(self.session.get("secret", "00" * 32))
        return multipart([("request", octets), ("mac", mac(secret, octets)), *(("part", part) for part in parts)])

    def keep(
        self, to: Person, body: bytes, head: bytes = b"head", post_id: bytes | None = None, **members: Any
    ) -> tuple[bytes, dict[str, Any]]:
        """Store one post; return its id and its result."""
        post_id = post_id or secrets.token_bytes(16)
        post = {"id": post_id.hex(), "to": to.fingerprint, "address": to.address, "head": 0, "body": 1, **members}
        response = self.send("store", {"posts": [post]}, [head, body])
        assert response.status_code == 200, response.data
        return post_id, response.get_json()["results"][0]

    def waiting(self, *senders: Person, after: int = 0, limit: int = 1000) -> dict[str, Any]:
        """List what waits from these senders."""
        members = {"senders": [sender.fingerprint for sender in senders], "after": after, "limit": limit}
        response = self.send("list", members)
        assert response.status_code == 200, response.data
        return dict(response.get_json())

    def fetch(self, *wanted: tuple[bytes, int]) -> list[tuple[Frame, bytes]]:
        """Fetch posts from these offsets; return the frames and their content, without the end frame."""
        posts = [{"id": post_id.hex(), "offset": offset} for post_id, offset in wanted]
        response = self.send("fetch", {"posts": posts})
        assert response.status_code == 200, response.data
        return read_frames(response.data)

    def ack(self, *ids: bytes) -> dict[str, Any]:
        """Acknowledge posts."""
        return dict(self.send("ack", {"ids": [post_id.hex() for post_id in ids]}).get_json())

    def outbox(self, **members: Any) -> list[dict[str, Any]]:
        """Return one's own posts."""
        return list(self.send("outbox", {"after": 0, "limit": 1000, **members}).get_json()["posts"])

    def withdraw(self, *ids: bytes) -> list[str]:
        """Withdraw posts; return their states."""
        results = self.send("withdraw", {"ids": [post_id.hex() for post_id in ids]}).get_json()["results"]
        assert [result["id"] for result in results] == [post_id.hex() for post_id in ids]
        return [result["state"] for result in results]


def read_frames(data: bytes) -> list[tuple[Frame, bytes]]:
    """Split the answer to a fetch; it has to be complete."""
    reader = FrameReader()
    frames: list[tuple[Frame, bytes]] = []
    for event in reader.feed(data):
        if isinstance(event, Frame):
            frames.append((event, b""))
        else:
            frames[-1] = frames[-1][0], frames[-1][1] + event
    assert reader.finished
    return frames[:-1]


@dataclass
class Store:
    """The post manager of alpha.example in this process."""

    section: PostManager
    clock: Clock
    database: Database
    counters: Counters
    http: HttpClient

    def post(self, body: bytes, content_type: str | None = None, **options: Any) -> TestResponse:
        """POST a body to the store's URL."""
        content_type = content_type or f"multipart/form-data; boundary={BOUNDARY}"
        return self.http.post(URL, data=body, content_type=content_type, **options)

    def talker(self, person: Person) -> Talker:
        """Return a client with an open session."""
        talker = Talker(self, person)
        assert talker.open().status_code == 200
        return talker


@contextmanager
def running_store(
    root: Path, people: Iterable[Person] = (), clock: Clock | None = None, **settings: Any
) -> Iterator[Store]:
    """A store below ``root`` in which ``people`` have accounts."""
    clock = clock or Clock()
    root.chmod(0o700)
    values = {
        "accounts": root / "accounts.toml",
        "spool": root,
        "reserve_bytes": 0,
        "rate_network": 0,
        "rate_client": 0,
    }
    section = PostManager(**(values | settings))
    directory.open_directory(section.spool)
    accounts = [
        Account(person.address.partition("@")[0], Address.parse(person.address), person.fingerprint, section.terms)
        for person in people
    ]
    database = service.open_database(section, 4, prepare=True)
    try:
        counters = Counters()
        edge = make_edge(section, HOST, Accounts(accounts), database, counters=counters, clock=clock)
        yield Store(section, clock, database, counters, HttpClient(create_app(edge)))
    finally:
        database.close()


def code(response: TestResponse) -> str:
    """The code of a refusal, which says the status that belongs to it."""
    data = response.get_json()
    assert response.content_type == "application/json"
    assert set(data) == {"error", "message", "time"}
    return str(data["error"])
