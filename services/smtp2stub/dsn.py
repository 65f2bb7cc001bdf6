"""The gateway's notices of mail that it could not deliver: what a queued message has to say in stubmail.dsn's form."""

from collections.abc import Sequence
from dataclasses import dataclass

from stubmail import dsn
from stubmail.address import Address
from stubmail.dsn import MAX_HEADER
from stubmail.queue import Item, Outcome

LAST = "Nobody will try again. The header of your message follows; its text does not leave the gateway."


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipient who did not get the message, and why."""

    recipient: Address
    outcome: Outcome


def notice_id(item: Item, number: int) -> str:
    """Return the notice's name, the same at every attempt to deliver it."""
    return f"{item.id}.{number}"


def parse_notice_id(text: str) -> tuple[str, int]:
    """Return the queue id and the number of a notice. Raises ValueError."""
    queue_id, _, number = text.partition(".")
    return queue_id, int(number)


def build(item: Item, number: int, failures: Sequence[Failure], host: str, header: bytes, now: float) -> bytes:
    """Return the notice, a multipart/report with CRLF line ends, to be delivered to ``item.mail_from``.

    ``host`` is our name; ``header`` the message's first octets, of which the header fields are quoted.
    """
    when = dsn.format_date(item.accepted)
    notice = dsn.Notice(
        id=notice_id(item, number),
        host=host,
        to=item.mail_from or item.sender,
        arrival=item.accepted,
        now=now,
        first=f"This is the mail gateway at {host}. Your message of {when} could not be delivered to:",
        last=LAST,
        header=header,
        utf8=item.utf8,
        fields=(("X-Queue-ID", item.id),),
    )
    return notice.to_wire([dsn.Failure(f.recipient, f.outcome.code, f.outcome.text) for f in failures])


__all__ = ["MAX_HEADER", "Failure", "build", "notice_id", "parse_notice_id"]
