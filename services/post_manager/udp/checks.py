"""What datagrams get for an answer (protocol.md §6): from memory while nothing changes, else by reads of an index.

Cheapest first: a made-up cookie is known by its id, a forged check by its MAC, and neither costs a read. What was read
holds for one state of the database; a cookie's key, which never changes, for as long as there is room.
"""

from collections.abc import Sequence

from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.storage.watch import Known, State, Version
from services.post_manager.tokens import Tokens
from services.post_manager.udp.udp_socket import Arrived
from stubmail.datagram import (
    Check,
    DatagramError,
    MacKey,
    token_request_from_wire,
    token_to_wire,
    unknown_to_wire,
    waiting_to_wire,
)

MAX_REMEMBERED = 100_000  # cookies, of some 600 octets each
DAY = 86_400  # seconds; how often the use of a cookie is noted


Answer = tuple[bytes, Arrived]  # with what it answers; it is never longer than that


class _Cookie(MacKey):
    """A cookie in memory: its key, and what was read of it in the state ``generation``."""

    __slots__ = ("generation", "posts", "serial", "used")

    def __init__(self, known: Known, generation: int) -> None:
        super().__init__(known.secret)
        self.renew(known, generation)

    def renew(self, known: Known, generation: int) -> None:
        """Take over what was read anew."""
        self.used = known.used
        self.posts = known.posts
        self.serial = known.serial
        self.generation = generation


class Checks:
    """Answers datagrams; holds nothing that the database does not have. For one thread."""

    def __init__(self, counters: Counters, ids: CookieIds, tokens: Tokens, remember: int = MAX_REMEMBERED) -> None:
        self._counters = counters
        self._ids = ids
        self._tokens = tokens
        self._remember = remember
        self._cookies: dict[bytes, _Cookie] = {}
        self._version: Version | None = None
        self._generation = 0
        self.used: dict[bytes, int] = {}  # cookies whose use has to be noted, and when it was

    def __len__(self) -> int:
        """How many cookies are remembered."""
        return len(self._cookies)

    def answer(self, arrived: Sequence[Arrived], state: State, now: int) -> list[Answer]:
        """Return the answers that datagrams deserve, in any order. Raises StorageError when the database is gone."""
        if state.version != self._version:
            self._version = state.version
            self._generation += 1
        generation = self._generation
        find = self._cookies.get
        yesterday = now - DAY
        answers: list[Answer] = []
        unread: dict[bytes, list[tuple[Check, Arrived]]] = {}
        forged = unknown = answered = 0
        for question in arrived:
            try:
                check = Check.from_wire(question.data)
            except DatagramError:
                self._answer_other(question, now, answers)
                continue
            cookie = find(check.cookie)
            if cookie is None and not self._ids.made_here(check.cookie):
                unknown += 1
                answers.append((unknown_to_wire(check.nonce), question))
            elif cookie is not None and not check.authentic(cookie):
                forged += 1
            elif cookie is None or cookie.generation != generation:
                unread.setdefault(check.cookie, []).append((check, question))
            else:
                answered += 1
                answers.append((waiting_to_wire(check.nonce, cookie.posts, cookie.serial, cookie), question))
                if cookie.used < yesterday:
                    self.used[check.cookie] = now
        self._count("checks answered", answered)
        self._count("checks unknown", unknown)
        self._count("checks forged", forged)
        if unread:
            self._read(list(unread), state, now)
            for cookie_id, questions in unread.items():
                for check, question in questions:
                    self._answer_read(cookie_id, check, question, now, answers)
        return answers

    def _read(self, cookie_ids: list[bytes], state: State, now: int) -> None:
        """Bring these cookies up to date with the database."""
        found = state.cookies(cookie_ids, now)
        if len(self._cookies) + len(found) > self._remember:
            self._cookies.clear()  # dear only to those who check again before the next time
        for cookie_id in cookie_ids:
            known = found.get(cookie_id)
            cookie = self._cookies.get(cookie_id)
            if known is None:
                self._cookies.pop(cookie_id, None)
            elif cookie is None:
                self._cookies[cookie_id] = _Cookie(known, self._generation)
            else:
                cookie.renew(known, self._generation)

    def _answer_read(self, cookie_id: bytes, check: Check, question: Arrived, now: int, answers: list[Answer]) -> None:
        """Answer a check whose cookie was just read."""
        cookie = self._cookies.get(cookie_id)
        if cookie is None:
            self._counters.add("checks unknown")
            answers.append((unknown_to_wire(check.nonce), question))
        elif not check.authentic(cookie):
            self._counters.add("checks forged")
        else:
            self._counters.add("checks answered")
            answers.append((waiting_to_wire(check.nonce, cookie.posts, cookie.serial, cookie), question))
            if cookie.used < now - DAY:
                self.used[cookie_id] = now

    def _answer_other(self, question: Arrived, now: int, answers: list[Answer]) -> None:
        """Answer what is no check: a question for a token, if it is one."""
        try:
            nonce = token_request_from_wire(question.data)
        except DatagramError:
            self._counters.add("checks malformed")
            return
        self._counters.add("tokens given")
        answers.append((token_to_wire(nonce, self._tokens.give(question.address, now)), question))

    def _count(self, name: str, number: int) -> None:
        if number:
            self._counters.add(name, number)
