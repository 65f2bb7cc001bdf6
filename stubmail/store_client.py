"""The client's side of a store: sessions and operations over HTTP (protocol.md §4, §5)."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from stubmail import frames, request
from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.errors import StubmailError, TemporaryError
from stubmail.frames import Frame, FrameReader
from stubmail.http_client import Answer, Body, ConnectionLost, HttpClient
from stubmail.openpgp import Identity, OpenPGPError
from stubmail.request import Part, Request
from stubmail.store_answers import (
    Listed,
    Listing,
    Other,
    Outbox,
    Result,
    Session,
    StoreRefused,
    TokenWanted,
    json_object,
    parse_listing,
    parse_outbox,
    parse_results,
    parse_session,
    refusal,
)
from stubmail.store_token import StoreToken

RENEW_SECONDS = 60  # a session this close to its end is not used any more
MAX_BATCH = 400  # posts in one store request: as many of the longest addresses fit into it (§9)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewPost:
    """A post to store; posts whose ``body`` is the same object share one part of the request."""

    id: bytes
    to: str
    address: Address
    head: bytes
    body: bytes


class StoreClient:
    """Talks to one store as one identity; opens its session when it needs one.

    Every operation raises TemporaryError when trying again later may help, StoreRefused when it will not. When the
    store wants a token, its domain's UDP port is asked for one. One instance is for one thread at a time.
    """

    def __init__(
        self,
        http: HttpClient,
        store: Store,
        identity: Identity,
        address: Address,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store_record = store
        self._http = http
        self._identity = identity
        self._address = address
        self._clock = clock
        self._session: Session | None = None
        self._token = StoreToken(http.resolver, store.domain or address.domain, clock)

    @property
    def session(self) -> Session:
        """The session in use, opened when there is none or it is about to end."""
        if self._session is None or self._session.expires - self._clock() < RENEW_SECONDS:
            self._session = self.open()
        return self._session

    def open(self) -> Session:
        """Open a new session (§5.1)."""
        return _twice(self._open)

    def _open(self) -> Session:
        certificate = self._identity.certificate.data
        nonce = secrets.token_hex(16)
        data = Request(
            op=request.OPEN,
            host=self.store_record.host,
            time=int(self._clock()),
            nonce=nonce,
            parts=(_part(certificate),),
            fingerprint=self._identity.fingerprint,
            address=self._address,
        ).to_wire()
        signature = self._identity.sign(data)
        self._identity.prepare()  # the answer is sealed
        with self._post([("request", data), ("signature", signature), ("certificate", certificate)]) as answer:
            _expect(answer, "application/octet-stream")
            sealed = answer.read(request.MAX_OPEN_ANSWER)
        try:
            plain = self._identity.decrypt(sealed, request.MAX_OPEN_ANSWER)
        except OpenPGPError as error:
            raise TemporaryError("4.7.0", f"cannot read the store's answer: {error.text}") from error
        return parse_session(plain, self.store_record.host, nonce)

    def store(self, posts: Sequence[NewPost]) -> list[Result]:
        """Store posts; when this returns, those with state ``stored`` are durable (§5.2).

        More than MAX_BATCH posts take several requests: what was stored before one of them fails stays stored.
        """
        batches = (posts[start : start + MAX_BATCH] for start in range(0, len(posts), MAX_BATCH))
        return [result for batch in batches for result in self._store(batch)]

    def _store(self, posts: Sequence[NewPost]) -> list[Result]:
        parts: list[bytes] = []
        index: dict[int, int] = {}

        def part(data: bytes) -> int:
            if id(data) not in index:
                index[id(data)] = len(parts)
                parts.append(data)
            return index[id(data)]

        wanted = [
            {"id": p.id.hex(), "to": p.to, "address": str(p.address), "head": part(p.head), "body": part(p.body)}
            for p in posts
        ]
        answer = self._json(request.STORE, {"posts": wanted}, parts)
        return parse_results(answer, [post.id for post in posts])

    def fetch(self, posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]:
        """Fetch (post id, offset) pairs: yields each post's frame, then its content in pieces (§5.4).

        Raises TemporaryError when the answer is truncated or malformed; what was yielded before counts. That these
        are the posts that were asked for is for the caller to check.
        """
        members = {"posts": [{"id": post_id.hex(), "offset": offset} for post_id, offset in posts]}
        with self._call(request.FETCH, members) as answer:
            _expect(answer, frames.MEDIA_TYPE)
            reader = FrameReader()
            try:
                for piece in answer.pieces():
                    yield from reader.feed(piece)
                reader.close()
            except frames.FrameError as error:
                raise TemporaryError("4.3.0", f"the store's answer is malformed: {error}") from error

    def ack(self, ids: Iterable[bytes]) -> None:
        """Tell the store that these posts are delivered durably (§5.5)."""
        self._json(request.ACK, {"ids": [post_id.hex() for post_id in ids]})

    def outbox(
        self,
        after: int = 0,
        limit: int = request.MAX_POSTS,
        states: Sequence[str] = (),
        since: int | None = None,
    ) -> Outbox:
        """Return one page of our own posts and their states, behind the serial ``after`` (§5.6).

        With ``since`` (Unix time): only posts that ended unfetched, behind ``after`` in that second, or later.
        """
        members: dict[str, Any] = {"after": after, "limit": limit}
        members |= {"states": list(states)} if states else {}
        members |= {"since": since} if since is not None else {}
        return parse_outbox(self._json(request.OUTBOX, members))

    def withdraw(self, ids: Sequence[bytes]) -> list[Result]:
        """Withdraw our own posts that still wait (§5.7)."""
        return parse_results(self._json(request.WITHDRAW, {"ids": [post_id.hex() for post_id in ids]}), ids)

    def list(self, senders: Iterable[str], after: int = 0, limit: int = request.MAX_POSTS) -> Listing:
        """List what waits from these senders (fingerprints), behind the serial ``after`` (§5.3)."""
        members = {"senders": sorted(senders), "after": after, "limit": limit}
        return parse_listing(self._json(request.LIST, members))

    def _json(self, op: str, members: Mapping[str, Any], parts: Sequence[bytes] = ()) -> dict[str, Any]:
        with self._call(op, members, parts) as answer:
            _expect(answer, "application/json")
            return json_object(answer.read(request.MAX_JSON_ANSWER))

    def _call(self, op: str, members: Mapping[str, Any], parts: Sequence[bytes] = ()) -> Answer:
        """Send a MACed request; once more, in a new session, when the store does not know ours any more."""

        def send() -> Answer:
            return self._send(self.session, op, members, parts)

        try:
            return _twice(send)
        except StoreRefused as error:
            if error.reason != "session":
                raise
        self._session = None
        return _twice(send)

    def _send(self, session: Session, op: str, members: Mapping[str, Any], parts: Sequence[bytes]) -> Answer:
        data = Request(
            op=op,
            host=self.store_record.host,
            time=int(self._clock()),
            nonce=secrets.token_hex(16),
            parts=tuple(_part(part) for part in parts),
            session=session.id,
            members=members,
        ).to_wire()
        mac = request.mac(session.secret, data)
        return self._post([("request", data), ("mac", mac), *(("part", part) for part in parts)])

    def _post(self, parts: Sequence[tuple[str, bytes]]) -> Answer:
        """Send a request; once more, with a new token, when the store wants one: it has not looked at the request."""
        answer = self._send_parts(parts)
        if answer.status == 200:
            return answer
        with answer:
            error = _refused(answer)
        if not isinstance(error, TokenWanted):
            raise error
        self._token.renew(answer.address)
        answer = self._send_parts(parts)
        if answer.status != 200:
            with answer:
                raise _refused(answer)
        return answer

    def _send_parts(self, parts: Sequence[tuple[str, bytes]]) -> Answer:
        boundary = secrets.token_hex(16)
        store = self.store_record
        return self._http.post(
            store.host,
            store.port,
            "/" + store.prefix,
            Body(_multipart(parts, boundary)),
            f"multipart/form-data; boundary={boundary}",
            tls=store.port == 443,
            fields=self._token.fields(),
        )


def _twice(attempt: Callable[[], T]) -> T:
    """Make a request; when the connection is lost, as a kept one often is, make another.

    Another, with a nonce of its own: the store may have done the first one, and would refuse a repeated nonce.
    """
    try:
        return attempt()
    except ConnectionLost:
        return attempt()


def _multipart(parts: Sequence[tuple[str, bytes]], boundary: str) -> list[bytes]:
    """The body's pieces (RFC 7578 §4); contents are not copied."""
    pieces: list[bytes] = []
    for name, data in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        pieces += [f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(), data, b"\r\n"]
    return [*pieces, f"--{boundary}--\r\n".encode()]


def _part(data: bytes) -> Part:
    return Part(sha256(data).digest(), len(data))


def _expect(answer: Answer, media_type: str) -> None:
    if answer.media_type != media_type:
        raise TemporaryError("4.3.0", f"the answer is {answer.media_type or 'untyped'}, not {media_type}")


def _refused(answer: Answer) -> StubmailError:
    """The error that a status other than 200 stands for."""
    if answer.media_type != "application/json":
        return TemporaryError("4.3.0", f"the store answers with HTTP status {answer.status}")
    return refusal(answer.status, answer.read(request.MAX_JSON_ANSWER))


__all__ = ["Listed", "Listing", "NewPost", "Other", "Outbox", "Result", "Session", "StoreClient", "StoreRefused"]
