"""The notices' common form: the fields of RFC 3464 that only some notices have, and their order."""

from email import message_from_bytes, policy

from stubmail.address import Address
from stubmail.dsn import MAX_HEADER, Failure, Notice, quotable

ALICE, BOB = Address("alice", "alpha.example"), Address("bob", "beta.example")
NOTICE = Notice(
    "n1", "alpha.example", ALICE, 1_800_000_000.0, 1_800_000_100.0, "First.", "Last.", b"Subject: x\r\n\r\ny"
)


def test_what_is_known_of_a_recipient_stands_in_the_order_of_the_standard() -> None:
    failure = Failure(
        BOB,
        "4.4.7",
        "too late",
        original="rfc822;Bob+40beta.example",
        remote="post.alpha.example",
        last_attempt=1_800_000_050.0,
        fields=(("X-Stub-Post-ID", "00" * 16),),
    )
    _, status, _ = message_from_bytes(NOTICE.to_wire([failure]), policy=policy.SMTP).iter_parts()
    message, recipient = status.get_payload()
    assert list(message) == ["Reporting-MTA", "Arrival-Date"]
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822;Bob+40beta.example",
        "Final-Recipient": "rfc822; bob@beta.example",
        "Action": "failed",
        "Status": "5.4.7",
        "Remote-MTA": "dns; post.alpha.example",
        "Diagnostic-Code": "x-stubmail; too late",
        "Last-Attempt-Date": "Fri, 15 Jan 2027 08:00:50 +0000",
        "X-Stub-Post-ID": "00" * 16,
    }


def test_what_is_not_known_is_left_out() -> None:
    wire = NOTICE.to_wire([Failure(BOB, "5.1.1", "no")])
    assert not any(name in wire for name in (b"Original-Recipient", b"Remote-MTA", b"Last-Attempt-Date"))


def test_whole_fields_are_quoted_and_nothing_behind_them() -> None:
    assert quotable(b"A: 1\r\nB: 2\r\n\r\ntext\r\n") == b"A: 1\r\nB: 2\r\n"
    assert quotable(b"A: 1\r\nB: cut sho") == b"A: 1\r\n"
    assert len(quotable(b"A: 1\r\n" * MAX_HEADER)) <= MAX_HEADER
