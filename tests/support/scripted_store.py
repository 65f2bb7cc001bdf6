"""A store in memory that stands where a StoreClient has its HttpClient: honest unless a test's script says otherwise.

It reads requests on its own, straight from docs/protocol.md, not with the modules under test.
"""

import hashlib
import hmac
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from stubmail.errors import TemporaryError
from stubmail.http_client import Body, ConnectionLost
from stubmail.openpgp import Certificate, Identity, OpenPGPError, Unsealed
from tests.support.fakes import FakeResolver
from tests.support.ports import LOOPBACK

HOST, PORT, PREFIX = "post.alpha.example", 8080, "cgi-bin/post_manager"
NOW = 1_795_251_600
JSON, OCTETS, POSTS = "application/json", "application/octet-stream", "application/vnd.stubmail.posts"


class FakeIdentity(Identity):
    """Signs with a hash and decrypts by taking a prefix away."""

    def sign(self, data: bytes) -> bytes:
        return b"signed by " + self.fingerprint.encode() + hashlib.sha256(data).digest()

    def decrypt(self, data: bytes, max_size: int) -> bytes:
        prefix = b"sealed for " + self.fingerprint.encode()
        if not data.startswith(prefix) or len(data) > max_size:
            raise OpenPGPError("not-for-us", "the message is encrypted to somebody else")
        return data.removeprefix(prefix)

    def seal(self, data: bytes, recipients: Sequence[Certificate]) -> bytes:
        raise NotImplementedError

    def unseal(self, data: bytes, certificate_of: Callable[[str], Certificate | None], max_size: int) -> Unsealed:
        raise NotImplementedError

    def close(self) -> None:
        """It holds nothing."""


@dataclass
class CannedAnswer:
    """What an HttpClient gives back; ``cuts`` says in how many octets at a time the body comes."""

    status: int
    media_type: str
    body: bytes
    cuts: int = 7
    broken: bool = False
    closed: bool = False
    address: str = LOOPBACK

    def __enter__(self) -> "CannedAnswer":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.body), self.cuts):
            yield self.body[start : start + self.cuts]
        if self.broken:
            raise TemporaryError("4.4.2", "the answer broke off")

    def read(self, max_size: int) -> bytes:
        body = b"".join(self.pieces())
        if len(body) > max_size:
            raise TemporaryError("4.3.0", "the answer is too long")
        return body


@dataclass
class Asked:
    """One request, as it arrived: its JSON, and its parts in order."""

    json: dict[str, Any]
    parts: list[tuple[str, bytes]]


@dataclass
class LostAfter:
    """In a script: the request is answered honestly, and the connection is lost before the answer arrives."""


@dataclass
class ScriptedStore:
    """``script`` holds what happens to the next requests: an answer, an error, LostAfter; empty: honest answers."""

    identity: FakeIdentity
    lifetime: int = 3600
    max_post: int = 1000
    forgetful: bool = False  # whether it forgets a session once it is opened
    now: float = NOW
    script: list[CannedAnswer | Exception | LostAfter] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    sessions: dict[str, bytes] = field(default_factory=dict)
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    answers: list[CannedAnswer] = field(default_factory=list)
    nonces: set[str] = field(default_factory=set)
    fields: list[dict[str, str]] = field(default_factory=list)  # further header fields of each request
    resolver: FakeResolver = field(default_factory=FakeResolver)

    def post(
        self,
        host: str,
        port: int,
        path: str,
        body: Body,
        media_type: str,
        *,
        tls: bool = False,
        fields: Mapping[str, str] | None = None,
    ) -> CannedAnswer:
        """As HttpClient.post."""
        self.fields.append(dict(fields or {}))
        assert (host, port, path, tls) == (HOST, PORT, "/" + PREFIX, False)
        data = b"".join(body)
        assert len(body) == len(data)
        self.asked.append(_read(data, media_type))
        happens = self.script.pop(0) if self.script else None
        if isinstance(happens, Exception):
            raise happens
        answer = happens if isinstance(happens, CannedAnswer) else self._answer(self.asked[-1])
        self.answers.append(answer)
        if isinstance(happens, LostAfter):
            raise ConnectionLost("4.4.2", "gone")
        return answer

    def ops(self) -> list[str]:
        """What was asked for, in order."""
        return [asked.json["op"] for asked in self.asked]

    def _answer(self, asked: Asked) -> CannedAnswer:
        said = asked.json
        if said["host"] != HOST:
            return refusal(421, "wrong-host")
        if abs(said["time"] - self.now) > 300:
            return refusal(403, "clock-skew")
        if said["nonce"] in self.nonces:
            return refusal(409, "replayed")
        _check_parts(said, asked.parts[2:])
        name, proof = asked.parts[1]
        octets = asked.parts[0][1]
        if said["op"] == "open":
            assert (name, proof) == ("signature", self.identity.sign(octets))
        else:
            secret = self.sessions.get(said["session"])
            if secret is None:
                return refusal(401, "session")
            assert (name, proof) == ("mac", hmac.new(secret, octets, hashlib.sha256).digest())
        self.nonces.add(said["nonce"])
        return getattr(self, "_" + said["op"])(said, [content for _, content in asked.parts[2:]])  # type: ignore[no-any-return]

    def _open(self, said: dict[str, Any], parts: list[bytes]) -> CannedAnswer:
        assert parts == [self.identity.certificate.data]
        assert said["fingerprint"] == self.identity.fingerprint
        return CannedAnswer(200, OCTETS, self.sealed(self.opened(said["nonce"])))

    def opened(self, nonce: str) -> dict[str, Any]:
        """What an ``open`` buys; the session is remembered."""
        number = self.ops().count("open")
        session, secret = f"{number:032x}", bytes([number]) * 32
        if not self.forgetful:
            self.sessions[session] = secret
        return {
            "version": 1,
            "host": HOST,
            "nonce": nonce,
            "session": session,
            "secret": secret.hex(),
            "expires": int(self.now) + self.lifetime,
            "cookie": "cc" * 16,
            "cookie_key": "dd" * 32,
            "max_post": self.max_post,
        }

    def sealed(self, data: object) -> bytes:
        """JSON, encrypted as far as the identity knows."""
        return b"sealed for " + self.identity.fingerprint.encode() + json.dumps(data).encode()

    def _store(self, said: dict[str, Any], parts: list[bytes]) -> CannedAnswer:
        results = []
        for post in said["posts"]:
            content = parts[post["head"]] + parts[post["body"]]
            if len(content) > self.max_post:
                results.append({"id": post["id"], "state": "refused", "error": "too-large", "message": "too large"})
                continue
            self.contents.setdefault(post["id"], content)
            self.posts.setdefault(post["id"], post | {"serial": len(self.posts) + 1, "state": "waiting"})
            results.append({"id": post["id"], "state": "stored"})
        return answer({"results": results})

    def _list(self, said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        sender = {"sender": self.identity.fingerprint, "address": "alice@alpha.example"}
        waiting = [post for post in self.posts.values() if post["state"] == "waiting"]
        asked_for = [post for post in waiting if sender["sender"] in said["senders"] and post["serial"] > said["after"]]
        page = [
            {"id": p["id"], "serial": p["serial"], "size": len(self.contents[p["id"]]), "time": NOW} | sender
            for p in asked_for[: said["limit"]]
        ]
        others = [] if sender["sender"] in said["senders"] else [sender | {"count": len(waiting)}]
        serial = max((post["serial"] for post in waiting), default=0)
        return answer({"posts": page, "more": len(asked_for) > len(page), "serial": serial, "others": others})

    def _fetch(self, said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        body = b""
        for wanted in said["posts"]:
            content = self.contents.get(wanted["id"])
            post_id = bytes.fromhex(wanted["id"])
            if content is None:
                body += struct.pack(">16sB7xQQ", post_id, 1, 0, 0)
            else:
                rest = content[wanted["offset"] :]
                body += struct.pack(">16sB7xQQ", post_id, 0, wanted["offset"], len(rest)) + rest
        return CannedAnswer(200, POSTS, body + bytes(16) + b"\xff" + bytes(23))

    def _ack(self, said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        for post_id in said["ids"]:
            self.contents.pop(post_id, None)
            self.posts.get(post_id, {})["state"] = "fetched"
        return answer({"acknowledged": len(said["ids"])})

    def _outbox(self, said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        sizes = {"size": 0, "stored": NOW, "changed": NOW, "expires": NOW}
        members = ("id", "serial", "to", "address", "state")
        posts = [{name: post[name] for name in members} | sizes for post in self.posts.values()]
        wanted = [post for post in posts if post["serial"] > said["after"]]
        if "states" in said:
            wanted = [post for post in wanted if post["state"] in said["states"]]
        return answer({"posts": wanted[: said["limit"]], "more": len(wanted) > said["limit"]})

    def _withdraw(self, said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        results = []
        for post_id in said["ids"]:
            post = self.posts.get(post_id)
            if post is not None and post["state"] == "waiting":
                post["state"] = "withdrawn"
            results.append({"id": post_id, "state": post["state"] if post else "absent"})
        return answer({"results": results})


def answer(data: object) -> CannedAnswer:
    """A JSON answer."""
    return CannedAnswer(200, JSON, json.dumps(data).encode())


def refusal(status: int, code: str, message: str = "no") -> CannedAnswer:
    """A refusal (protocol.md §4.4)."""
    return CannedAnswer(status, JSON, json.dumps({"error": code, "message": message, "time": NOW}).encode())


def _read(data: bytes, media_type: str) -> Asked:
    """Take a multipart/form-data body apart (RFC 7578); nothing but what RFC 2046 asks for is assumed."""
    header = Message()
    header["Content-Type"] = media_type
    assert header.get_content_type() == "multipart/form-data"
    delimiter = b"--" + str(header.get_param("boundary")).encode()
    assert data.startswith(delimiter + b"\r\n")
    assert data.endswith(b"\r\n" + delimiter + b"--\r\n")
    parts = []
    for part in data[: -len(delimiter) - 6].removeprefix(delimiter + b"\r\n").split(b"\r\n" + delimiter + b"\r\n"):
        head, _, content = part.partition(b"\r\n\r\n")
        fields = Message()
        for line in head.decode("ascii").split("\r\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        assert fields.get_content_disposition() == "form-data"
        assert "Content-Transfer-Encoding" not in fields
        parts.append((str(fields.get_param("name", header="Content-Disposition")), content))
    assert parts[0][0] == "request"
    return Asked(json.loads(parts[0][1]), parts)


def _check_parts(said: dict[str, Any], parts: list[tuple[str, bytes]]) -> None:
    assert {name for name, _ in parts} <= {"certificate" if said["op"] == "open" else "part"}
    described = [{"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for _, content in parts]
    assert said["parts"] == described
