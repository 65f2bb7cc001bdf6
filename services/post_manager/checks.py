"""What a check gets for an answer (protocol.md §6): from memory while nothing changes, else by reads of an index."""

from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import Connection

from services.post_manager.counters import Counters
from services.post_manager.storage import mailbox, sessions
from services.post_manager.storage.database import Version
from stubmail.datagram import CHECK_SIZE, Check, DatagramError, unknown_to_wire, waiting_to_wire

MAX_REMEMBERED = 100_000  # cookies
DAY = 86_400  # seconds; how often the use of a cookie is noted


@dataclass(frozen=True, slots=True)
class _Known:
    secret: bytes
    used: int
    posts: int
    serial: int


class Checks:
    """Answers checks, datagram by datagram; holds nothing that the database does not have."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._version: Version | None = None
        self.used: dict[bytes, int] = {}  # cookies whose use has to be noted, and when it was

    def new_state(self, version: Version | None) -> None:
        """Forget what was read from another state of the database; None means that it may always be another."""
        if version is None or version != self._version:
            self._known.clear()
            self._version = version

    def answer(self, data: bytes, connection: Connection, now: int) -> bytes | None:
        """Return the answer to a datagram; None when it deserves none. Never longer than the question."""
        if len(data) != CHECK_SIZE:
            self._counters.add("checks malformed")
            return None
        try:
            check = Check.from_wire(data)
        except DatagramError:
            self._counters.add("checks malformed")
            return None
        known = self._known.get(check.cookie) or self._read(check.cookie, connection, now)
        if known is None:
            self._counters.add("checks unknown")
            return unknown_to_wire(check.nonce)
        if not check.authentic(known.secret):
            self._counters.add("checks forged")
            return None
        self._counters.add("checks answered")
        if known.used < now - DAY:
            self.used[check.cookie] = now
        return waiting_to_wire(check.nonce, known.posts, known.serial, known.secret)

    def _read(self, cookie_id: bytes, connection: Connection, now: int) -> _Known | None:
        found = sessions.find_cookie(connection, cookie_id, now)
        if found is None:
            return None
        cookie, fingerprint, used = found
        known = _Known(cookie.secret, used, *mailbox.waiting(connection, fingerprint))
        self._known[cookie_id] = known
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known
