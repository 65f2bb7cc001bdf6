"""What each operation does, once a request is admitted (protocol.md §5)."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.http import delivery
from services.post_manager.http.admission import Admitted
from services.post_manager.http.parts import Parts
from services.post_manager.http.reply import JSON, OCTETS, Reply
from services.post_manager.http.room import Room
from services.post_manager.http.upload import Upload
from services.post_manager.policy import Accounts
from services.post_manager.storage import mailbox, outbox, posts, sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.posts import NewPost, Refused, Sender, Wanted
from services.post_manager.storage.schema import STATE_NAMES
from stubmail import frames, request
from stubmail.address import Address
from stubmail.log import Sparing, event, together
from stubmail.openpgp import OpenPGPError, encrypt
from stubmail.request import Refusal
from stubmail.steps import Steps

_log = logging.getLogger("post_manager")
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the store keeps what it has: the room that there is for it, seconds of a tombstone."""

    room: Room
    tombstone: int


class Operations:
    """The seven operations on one database. Each raises Refusal or StorageError; for all threads of a process."""

    def __init__(
        self,
        host: str,
        database: Database,
        accounts: Accounts,
        keeping: Keeping,
        cookie_ids: CookieIds,
        clock: Callable[[], float],
        counters: Counters,
    ) -> None:
        self._host = host
        self._database = database
        self._accounts = accounts
        self._keeping = keeping
        self._cookie_ids = cookie_ids
        self._clock = clock
        self._counters = counters
        self._sparing = Sparing()
        self._table: Mapping[str, Callable[[Admitted, Parts], Reply | Steps[Reply]]] = {
            request.OPEN: self._open,
            request.STORE: self._store,
            request.LIST: self._list,
            request.FETCH: self._fetch,
            request.ACK: self._ack,
            request.OUTBOX: self._outbox,
            request.WITHDRAW: self._withdraw,
        }

    def answer(self, admitted: Admitted, parts: Parts) -> Steps[Reply]:
        """Do what an admitted request asks for; what has to be written may wait for others' between two steps."""
        answer = self._table[admitted.request.op](admitted, parts)
        return answer if isinstance(answer, Reply) else (yield from answer)

    def _open(self, admitted: Admitted, _parts: Parts) -> Reply:
        now = int(self._clock())
        session, cookie = sessions.new_session(admitted.fingerprint, admitted.address, now, self._cookie_ids.new())
        account = self._accounts.find(session.fingerprint, Address.parse(session.address).key)
        data = {
            "version": request.VERSION,
            "host": self._host,
            "nonce": admitted.request.nonce,
            "session": session.id.hex(),
            "secret": session.secret.hex(),
            "expires": session.expires,
            "cookie": cookie.id.hex(),
            "cookie_key": cookie.secret.hex(),
            "max_post": account.terms.max_post if account else 0,
        }
        if admitted.certificate is None:
            raise Refusal("certificate", "an open comes with a certificate")
        try:
            sealed = encrypt(json.dumps(data).encode(), admitted.certificate)
        except OpenPGPError as error:
            raise Refusal("certificate", f"nothing can be encrypted to the certificate: {error.text}") from error
        sessions.save(self._database, session, cookie, now)
        event(_log, "opened", fingerprint=session.fingerprint, address=session.address, account=account is not None)
        return Reply(200, OCTETS, sealed)

    def _store(self, admitted: Admitted, parts: Parts) -> Steps[Reply]:
        account = self._accounts.find(admitted.fingerprint, Address.parse(admitted.address).key)
        if account is None:
            raise Refusal("account", "posts are stored for this domain's own accounts only")
        self._database.require_writable()
        wanted = request.store_posts(admitted.request)
        self._keeping.room.check(sum(part.size for part in admitted.request.parts), self._database)
        with Upload(self._keeping.room.incoming) as upload:
            received = upload.receive(parts, "part", admitted.request.parts)
            new = [
                NewPost(post.id, post.to, str(post.address), received[post.head].read(), post.body) for post in wanted
            ]
            sender = Sender(admitted.fingerprint, admitted.address)
            now = int(self._clock())
            everything = Wanted(sender, new, received, account.terms, now, admitted.nonce)
            outcomes = yield from posts.store_together(self._database, everything)
        results: list[dict[str, Any]] = []
        for post, outcome in zip(new, outcomes, strict=True):
            if isinstance(outcome, Refused):
                self._counters.add(f"posts refused {outcome.code}")
                code, about = outcome.code, post.id.hex()
                self._sparing.event(_log, code, "refused", about, account=account.name, reason=code)
                results.append({"id": about, "state": "refused", "error": code, "message": outcome.message})
                continue
            if outcome is None:
                self._counters.add("posts stored")
                size = len(post.head) + received[post.body].size
                event(_log, "stored", post.id.hex(), account=account.name, to=post.recipient, octets=size)
            results.append({"id": post.id.hex(), "state": "stored"})
        return _json({"results": results})

    def _list(self, admitted: Admitted, _parts: Parts) -> Reply:
        query = request.list_query(admitted.request)
        listing = mailbox.page(self._database, admitted.fingerprint, query.senders, query.after, query.limit)
        return _json(
            {
                "posts": [
                    {
                        "id": post.id.hex(),
                        "serial": post.serial,
                        "sender": post.sender,
                        "address": post.address,
                        "size": post.size,
                        "time": post.stored,
                    }
                    for post in listing.posts
                ],
                "more": listing.more,
                "serial": listing.serial,
                "others": [
                    {"sender": other.sender, "address": other.address, "count": other.posts} for other in listing.others
                ],
            }
        )

    def _fetch(self, admitted: Admitted, _parts: Parts) -> Reply:
        wanted = request.fetch_posts(admitted.request)
        return Reply(200, frames.MEDIA_TYPE, delivery.answer(self._database, admitted.fingerprint, wanted))

    def _ack(self, admitted: Admitted, _parts: Parts) -> Reply:
        self._database.require_writable()
        ids = request.post_ids(admitted.request)
        now = int(self._clock())
        keep = self._keeping.tombstone
        fetched = mailbox.acknowledge(self._database, admitted.fingerprint, ids, now, keep, admitted.nonce)
        self._counters.add("posts fetched", len(fetched))
        with together():
            for post_id in fetched:
                event(_log, "fetched", post_id.hex(), by=admitted.fingerprint)
        return _json({"acknowledged": len(ids)})

    def _outbox(self, admitted: Admitted, _parts: Parts) -> Reply:
        query = request.outbox_query(admitted.request)
        states = [STATE_NAMES.index(state) for state in query.states]
        sent, more = outbox.page(self._database, admitted.fingerprint, query.after, query.limit, states, query.since)
        return _json({"posts": [_sent(post) for post in sent], "more": more})

    def _withdraw(self, admitted: Admitted, _parts: Parts) -> Reply:
        self._database.require_writable()
        ids = request.post_ids(admitted.request)
        now = int(self._clock())
        keep = self._keeping.tombstone
        states, withdrawn = outbox.withdraw(self._database, admitted.fingerprint, ids, now, keep, admitted.nonce)
        self._counters.add("posts withdrawn", withdrawn)
        event(_log, "withdrew", by=admitted.fingerprint, posts=withdrawn, asked=len(ids))
        results = []
        for post_id in ids:
            state = STATE_NAMES[states[post_id]] if post_id in states else "absent"
            results.append({"id": post_id.hex(), "state": state})
        return _json({"results": results})


def _sent(post: outbox.Sent) -> dict[str, Any]:
    return {
        "id": post.id.hex(),
        "serial": post.serial,
        "to": post.recipient,
        "address": post.address,
        "size": post.size,
        "state": STATE_NAMES[post.state],
        "stored": post.stored,
        "changed": post.changed,
        "expires": post.expires,
    }


def _json(data: Mapping[str, Any]) -> Reply:
    return Reply(200, JSON, _encode(data).encode())
