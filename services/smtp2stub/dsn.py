"""The gateway's notices to senders: what a queued message has to say in stubmail.dsn's form. Sans-IO."""

from collections.abc import Sequence

from stubmail import dsn
from stubmail.dsn import MAX_HEADER, Action, RecipientStatus
from stubmail.queue import Item, Outcome, Progress, Recipient, State

LAST = "The header of your message follows; its text does not leave the gateway."

_HANDED_ON = {
    "stub": "encrypted, and kept at our own store until the recipient's side fetches it",
    "smarthost": "the server that it was handed to does not tell of success",
}


def notice_id(item: Item, number: int) -> str:
    """Return the notice's name, the same at every attempt to deliver it."""
    return f"{item.id}.{number}"


def parse_notice_id(text: str) -> tuple[str, int]:
    """Return the queue id and the number of a notice. Raises ValueError."""
    queue_id, _, number = text.partition(".")
    return queue_id, int(number)


def statuses(item: Item, progress: Progress, number: int, lifetime: float) -> list[RecipientStatus]:
    """Return what the notice with this number says of whom; ``lifetime``: for how many seconds delivery is tried.

    Who was delayed when the number was given, and has been served since, is left out.
    """
    found = []
    for index, (recipient, outcome) in enumerate(zip(item.recipients, progress.outcomes, strict=True)):
        if outcome.notice == number:
            found.append(_ended(recipient, outcome))
        elif progress.delayed.get(index) == number and outcome.state is State.WAITING:
            found.append(
                RecipientStatus(
                    recipient.address,
                    outcome.code,
                    outcome.text,
                    Action.DELAYED,
                    recipient.original,
                    retry_until=item.accepted + lifetime,
                )
            )
    return found


def build(
    item: Item, number: int, recipients: Sequence[RecipientStatus], host: str, header: bytes, now: float
) -> bytes:
    """Return the notice, a multipart/report with CRLF line ends, to be delivered to ``item.mail_from``.

    ``host`` is our name; ``header`` the message's first octets, of which the header fields are quoted, whatever RET
    said: the text stays where it is encrypted.
    """
    gateway = f"This is the mail gateway at {host}. Your message of {dsn.format_date(item.accepted)}"
    notice = dsn.Notice(
        id=notice_id(item, number),
        host=host,
        to=item.mail_from or item.sender,
        arrival=item.accepted,
        now=now,
        first={
            Action.FAILED: f"{gateway} could not be delivered to these recipients, and nobody will try again:",
            Action.DELAYED: f"{gateway} could not be delivered yet to these recipients. You need not do anything: "
            "it is tried again.",
            Action.RELAYED: f"{gateway} has left for these recipients. You asked to be told.",
        },
        last=LAST,
        header=header,
        utf8=item.utf8,
        envid=item.envid,
        fields=(("X-Queue-ID", item.id),),
    )
    return notice.to_wire(recipients)


def _ended(recipient: Recipient, outcome: Outcome) -> RecipientStatus:
    if outcome.state is State.FAILED:
        return RecipientStatus(recipient.address, outcome.code, outcome.text, original=recipient.original)
    reason = _HANDED_ON.get(outcome.via, "")
    return RecipientStatus(recipient.address, outcome.code, reason, Action.RELAYED, recipient.original)


__all__ = ["MAX_HEADER", "build", "notice_id", "parse_notice_id", "statuses"]
