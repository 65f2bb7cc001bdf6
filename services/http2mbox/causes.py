"""Why mail of a correspondent is not delivered: one notice to the account for each sender and cause. Sans-IO."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256

from services.http2mbox.state import HeldPost, OtherSender
from stubmail.address import Address

SILENCE_SECONDS = 30 * 86_400  # between two notices about one sender and cause
MAX_NOTICES = 50  # in one pass; what else there is to tell comes with the next
KEY_CHANGED = "key-changed"
_MAX_IDS = 10


@dataclass(frozen=True, slots=True)
class Cause:
    """Posts of one sender that are held for one reason; ``ids`` are theirs, none when they were not even listed."""

    address: str
    sender: str
    reason: str
    text: str
    found: str
    expected: str
    count: int
    ids: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """The same for all posts of a sender and a reason, in hex.

        Who signs with a key that nobody has asked for could take ever new ones: his address names him then.
        """
        who = self.address if self.reason == KEY_CHANGED else self.sender
        return sha256(f"{who}\n{self.reason}".encode()).hexdigest()[:32]


def causes(held: Iterable[HeldPost], others: Iterable[OtherSender]) -> list[Cause]:
    """Return why mail waits: of posts held, and of correspondents ``others`` who use another key than the keyring's."""
    groups: dict[tuple[str, str], list[HeldPost]] = {}
    for post in held:
        groups.setdefault((post.sender, post.reason), []).append(post)
    found = [
        Cause(
            first.address,
            first.sender,
            first.reason,
            first.text,
            first.found,
            first.expected,
            len(posts),
            tuple(post.id for post in posts[:_MAX_IDS]),
        )
        for posts in groups.values()
        for first in posts[:1]
    ]
    for other in others:
        if other.expected:
            text = f"the keyring has another key for {other.address}"
            found.append(
                Cause(other.address, other.sender, KEY_CHANGED, text, other.sender, other.expected, other.count, ())
            )
    return found


def compose(cause: Cause, account: Address, store_host: str, now: float) -> bytes:
    """Return the notice about a cause (RFC 5322, CRLF). ``now`` is Unix time."""
    from email import policy  # seldom needed, and not quickly imported
    from email.headerregistry import Address as HeaderAddress
    from email.message import EmailMessage

    notice = EmailMessage(policy.SMTPUTF8)
    notice["From"] = HeaderAddress("Mail Delivery System", addr_spec=f"MAILER-DAEMON@{account.domain}")
    notice["To"] = HeaderAddress(username=account.local, domain=account.domain)
    notice["Subject"] = f"Mail from {cause.address} is held back ({cause.reason})"
    notice["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    notice["Message-ID"] = f"<{cause.name}.{int(now)}@{account.domain}>"
    notice["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5
    notice.set_content("\n".join(_lines(cause, account, store_host)), cte="8bit")
    return notice.as_bytes()


def _lines(cause: Cause, account: Address, store_host: str) -> Iterable[str]:
    waits = "1 message waits" if cause.count == 1 else f"{cause.count} messages wait"
    yield f"This is the mail system of {account.domain}. {waits} at {store_host}, said to be from"
    yield f"{cause.address}, but not delivered to you:"
    yield ""
    yield f"    {cause.text}"
    yield ""
    if cause.found:
        yield f"Key that came with it:    {cause.found}"
    if cause.expected:
        yield f"Key(s) in your keyring:   {cause.expected}"
    if cause.found or cause.expected:
        yield ""
    if cause.reason == KEY_CHANGED:
        yield "Either your correspondent has a new key, or somebody pretends to be that person. Ask for the new"
        yield "fingerprint in a way that does not depend on this mail. Only if it is the one above:"
        yield ""
        yield f"    stubmail keys accept --account {account} {cause.address} {cause.found}"
    else:
        yield "Nothing of it has been deleted. To see it, have it delivered with a warning, or throw it away:"
        yield ""
        yield f"    stubmail held list --account {account}"
        for post_id in cause.ids:
            yield f"    stubmail held release {post_id.hex()}"
        if cause.count > len(cause.ids):
            yield f"    (and {cause.count - len(cause.ids)} more)"
        yield f"    stubmail held drop {cause.ids[0].hex() if cause.ids else 'ID'}"
    yield ""
    yield f"More of the same is held without another notice for {SILENCE_SECONDS // 86_400} days."
