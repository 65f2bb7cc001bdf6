"""Notices to an account about its own posts that ended unfetched: what they say, and which posts share one. Sans-IO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from stubmail import dsn
from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.sent import Record
from stubmail.store_answers import Outbox, Sent

EXPIRED, WITHDRAWN = "expired", "withdrawn"
STATES = (EXPIRED, WITHDRAWN)

_MAX_NUMBER = 2**63 - 1  # what SQLite can hold
_MAX_TIME = 253_402_300_799  # the end of the year 9999, the last that a date has


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice about some posts; ``message`` is None when nobody is to be told (RFC 5321 §4.5.5)."""

    posts: tuple[Sent, ...]
    message: bytes | None


def check_page(page: Outbox, since: int, after: int) -> None:
    """Raise TemporaryError for a page that no honest store answers with (protocol.md §5.6).

    Posts that ended unfetched were asked for, behind ``after`` in the second ``since``. They must come in order, so
    that paging ends.
    """
    place = since, after
    for post in page.posts:
        if post.state not in STATES:
            raise TemporaryError("4.3.0", "our store lists posts in a state that was not asked for")
        if not place < (post.changed, post.serial) <= (_MAX_TIME, _MAX_NUMBER) or not 0 < post.serial <= _MAX_NUMBER:
            raise TemporaryError("4.3.0", "our store lists posts out of order")
        if not 0 <= post.stored <= _MAX_TIME or not 0 <= post.expires <= _MAX_TIME:
            raise TemporaryError("4.3.0", "our store lists impossible times")
        place = post.changed, post.serial
    if len({post.id for post in page.posts}) != len(page.posts):
        raise TemporaryError("4.3.0", "our store lists a post twice")
    if page.more and not page.posts:
        raise TemporaryError("4.3.0", "our store says that there is more, but lists nothing")


def compose(
    posts: Sequence[Sent], records: Mapping[bytes, Record], account: Address, store_host: str, now: float
) -> list[Notice]:
    """Return the notices about these posts: one for each message, or for each post of which no record is known.

    ``records`` by post id; ``store_host`` is the host that said what became of them; ``now`` is Unix time.
    """
    groups: dict[object, list[Sent]] = {}
    for post in posts:
        groups.setdefault(records.get(post.id) or post.id, []).append(post)
    return [
        Notice(tuple(group), _message(group, records.get(group[0].id), account, store_host, now))
        for group in groups.values()
    ]


def _message(
    posts: Sequence[Sent], record: Record | None, account: Address, store_host: str, now: float
) -> bytes | None:
    if record is not None and record.mail_from is None:
        return None
    arrival = min(post.stored for post in posts)
    if record is None:
        header = _known_header(posts, account, arrival)
        last = "What the store knew of your message follows; the rest of its header has not been kept."
    else:
        header = record.header
        last = "The header of your message follows; its text is nowhere but where you keep it."
    when = dsn.format_date(arrival)
    first = f"This is the mail system of {account.domain}. Your message of {when} was not fetched by:"
    notice = dsn.Notice(
        id=sha256(b"".join(sorted(post.id for post in posts))).hexdigest()[:32],
        host=account.domain,
        to=record.mail_from if record and record.mail_from else account,
        arrival=arrival,
        now=now,
        first={dsn.Action.FAILED: first},
        last=f"It has been deleted; nobody will try again. {last}",
        header=header,
        utf8=record is not None and record.utf8,
        envid=record.envid if record else "",
    )
    originals = dict(record.originals) if record else {}
    return notice.to_wire([_failure(post, originals.get(post.id, ""), store_host) for post in posts])


def _failure(post: Sent, original: str, store_host: str) -> dsn.RecipientStatus:
    if post.state == EXPIRED:
        # RFC 3463 §3.5: X.4.7, delivery time expired
        status, reason = "5.4.7", f"not fetched until {dsn.format_date(post.expires)}, when its time was over"
    else:
        status, reason = "5.0.0", f"withdrawn by its sender on {dsn.format_date(post.changed)}, before it was fetched"
    return dsn.RecipientStatus(
        post.address,
        status,
        reason,
        original=original,
        remote=store_host,
        last_attempt=post.changed,
        fields=(("X-Stub-Post-ID", post.id.hex()),),
    )


def _known_header(posts: Sequence[Sent], account: Address, arrival: float) -> bytes:
    to = ", ".join(f"<{post.address}>" for post in posts)
    return f"From: <{account}>\r\nTo: {to}\r\nDate: {dsn.format_date(arrival)}\r\n".encode()
