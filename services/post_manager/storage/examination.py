"""Everything a database holds, read once and held against what must be true of it; damage is named post by post."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Row, func, select, text

from services.post_manager.storage import sums
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.errors import StorageDamaged, StorageError
from services.post_manager.storage.schema import STATE_NAMES, WAITING, chunks, contents, posts
from services.post_manager.storage.snapshot import KeptBody, Snapshot
from stubmail.openpgp import OpenPGPError, packets
from stubmail.request import MAX_HEAD

MAX_HEAD_PACKETS = 32
MAX_PAGES = 20  # damaged pages that are named: they mean little to anybody
MAX_NAMED = 100_000  # damaged contents whose posts are named; with more, nobody reads the list

_CONTENTS = select(contents.c.id, contents.c.sender, contents.c.digest, contents.c.size).order_by(contents.c.id)
# What an index knows of posts whose rows may be beyond reading.
_BY_INDEX = select(posts.c.serial, posts.c.sender, posts.c.recipient).with_hint(
    posts, "INDEXED BY posts_by_recipient", "sqlite"
)
_SURPLUS = select(chunks.c.content, func.count().label("number")).outerjoin(contents, contents.c.id == chunks.c.content)


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong, a sentence.

    ``sealed``: it is what a client sealed, the store itself lost nothing. ``pages``: the file cannot be relied upon.
    """

    text: str
    sealed: bool = False
    pages: bool = False


@dataclass(slots=True)
class Seen:
    """How much was looked at."""

    posts: int = 0
    waiting: int = 0
    contents: int = 0
    octets: int = 0


class _Content(NamedTuple):
    """A content as a post knows it."""

    id: int
    sender: str
    digest: bytes
    size: int


class Examination:
    """Examines one state of a database, in constant memory; ``report`` gets each damage as it is found."""

    def __init__(self, source: Snapshot, report: Callable[[Damage], None]) -> None:
        self.seen = Seen()
        self._source = source
        self._report = report
        self._sqlite = source.connection.dialect.name == "sqlite"
        self._spoiled: dict[int, str] = {}  # contents, and what is wrong with them
        self._last: float = -1  # the number of the last content that was looked at

    def run(self) -> Seen:
        """Look at everything. Raises StorageError when the database does not answer."""
        if self._sqlite:
            self._part("the file", self._check_pages)
        for page in self.sound_posts():
            del page
        for what, check in sums.CHECKS.items():
            self._part(what, partial(self._check_sums, check))
        return self.seen

    def _check_contents(self) -> None:
        """Read every content: chunks that are missing or too many, digests that differ."""
        while rows := self._source.rows(_CONTENTS.where(contents.c.id > self._last).limit(1_000)):
            for row in rows:
                self._check_content(row)
                self._last = row.id
        self._last = math.inf
        stray = _SURPLUS.where((contents.c.id.is_(None)) | (chunks.c.number * CHUNK >= contents.c.size))
        for row in self._source.stream(stray.group_by(chunks.c.content)):
            self._say([f"content {row.content}: {row.number} chunks too many"])

    def sound_posts(self) -> Iterator[Sequence[Row[Any]]]:
        """Yield all posts but those that are damaged or have a damaged content, which are reported."""
        self._part("contents", self._check_contents)
        after = 0
        while True:
            try:
                rows = self._source.rows_after(after)
            except StorageError as error:
                if not self._sqlite:
                    raise
                self._report(Damage(f"posts behind serial {after} cannot be read in one go ({error.text})", pages=True))
                yield from self._one_by_one(after)
                return
            if not rows:
                return
            yield [row for row in rows if self._is_sound(row)]
            after = rows[-1].serial

    def _one_by_one(self, after: int) -> Iterator[Sequence[Row[Any]]]:
        """Past damaged pages: go through an index and read each post by itself."""
        try:
            for known in self._source.stream(_BY_INDEX.where(posts.c.serial > after).order_by(posts.c.recipient)):
                try:
                    row = self._source.post(known.serial)
                except StorageError:
                    row = None
                if row is None:
                    name = f"the post with serial {known.serial} from {known.sender} to {known.recipient}"
                    self._say([f"{name} cannot be read"])
                elif self._is_sound(row):
                    yield [row]
        except StorageError as error:
            self._say([f"an index cannot be read to its end, so that not all posts are known ({error.text})"])

    def _part(self, what: str, check: Callable[[], None]) -> None:
        try:
            check()
        except StorageError as error:
            if not self._sqlite:
                raise
            self._report(Damage(f"{what} cannot be read to the end ({error.text})", pages=True))

    def _check_sums(self, check: Callable[[Snapshot], Iterator[str]]) -> None:
        self._say(check(self._source))

    def _check_pages(self) -> None:
        for row in self._source.rows(text(f"PRAGMA integrity_check({MAX_PAGES})")):
            if row[0] != "ok":
                self._report(Damage(f"the file: {'; '.join(row[0].splitlines())}", pages=True))

    def _check_content(self, row: "Row[Any] | _Content") -> None:
        self.seen.contents += 1
        try:
            if len(row.digest) != 32 or row.size < 0:
                raise StorageDamaged(f"content {row.id} has an impossible digest or size")
            for piece in KeptBody(self._source, row.id, row.digest, row.size).pieces():
                self.seen.octets += len(piece)
        except StorageError as error:
            if not self._sqlite and not isinstance(error, StorageDamaged):
                raise
            self._say([f"content {row.id} of {row.sender}: {error.text}"])
            if len(self._spoiled) < MAX_NAMED:
                self._spoiled[row.id] = error.text

    def _is_sound(self, row: Row[Any]) -> bool:
        self.seen.posts += 1
        self.seen.waiting += row.state == WAITING
        if problem := self._problem(row):
            self._report(Damage(f"{_name(row)}: {problem}"))
            return False
        if row.state == WAITING and (problem := _head_problem(row.head)):
            self._report(Damage(f"{_name(row)}: {problem}", sealed=True))
        return True

    def _problem(self, row: Row[Any]) -> str:
        """What is wrong with a post; "" for nothing."""
        if len(row.id) != 16 or row.state not in range(len(STATE_NAMES)):
            return "its id or state is impossible"
        if row.state != WAITING:
            return "it no longer waits, but has content" if row.content is not None or row.head is not None else ""
        if row.head is None or row.content is None:
            return "it waits without content"
        if row.digest is None:
            return f"its content {row.content} is missing"
        if row.content_sender != row.sender:
            return f"its content {row.content} belongs to {row.content_sender}"
        if row.size != len(row.head) + row.body_size:
            return f"it says it has {row.size} octets, but has {len(row.head) + row.body_size}"
        if row.content > self._last and row.content not in self._spoiled:  # past pages that could not be read
            self._check_content(_Content(row.content, row.sender, row.digest, row.body_size))
        return self._spoiled.get(row.content, "")

    def _say(self, problems: Iterator[str] | Sequence[str]) -> None:
        for problem in problems:
            self._report(Damage(problem))


def _name(row: Row[Any]) -> str:
    return f"post {bytes(row.id).hex()} from {row.sender} ({row.sender_address}) to {row.recipient} ({row.address})"


def _head_problem(head: bytes) -> str:
    """What keeps a head from being session key packets and nothing else (protocol.md §7.3); "" for nothing."""
    if len(head) > MAX_HEAD:
        return f"its head has {len(head)} octets, {MAX_HEAD} are allowed"
    try:
        tags = {packet.tag for packet in packets.read_packets(head, MAX_HEAD_PACKETS)}
    except OpenPGPError as error:
        return f"its head cannot be read as OpenPGP packets ({error.text})"
    return "" if tags == {packets.PKESK} else "its head is not made of session key packets"
