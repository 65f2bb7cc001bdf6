"""A DKIM signature (RFC 6376, RFC 8463) that a message had when it was sealed still verifies in the maildrop."""

import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.http2mbox.delivered import Receipt, delivered_form, released_form
from stubmail.address import Address
from stubmail.maildrops.maildir import Maildir
from stubmail.mbox import Delivery, Mbox

RECEIPT = Receipt(
    "post.alpha.example",
    Address("bob", "beta.example"),
    bytes(16),
    Address("alice", "alpha.example"),
    "A1" * 20,
    datetime(2026, 11, 21, 9, tzinfo=UTC),
)
SIGNED = (b"from", b"to", b"subject", b"received")
MESSAGE = (
    b"Received: from mx.example by mail.alpha.example; Sat, 21 Nov 2026 09:00:00 +0000\r\n"
    b"Authentication-Results: beta.example; dkim=pass\r\n"  # forged: it goes, and no signature has it
    b"From: Alice <alice@alpha.example>\r\n"
    b"To: bob@beta.example\r\n"
    b"Subject:  two  blanks,\r\n\tfolded \xe2\x98\x83 \r\n"
    b"\r\n"
    b"From the beginning\r\n>From quoted, >>From twice\r\n  blanks \t at the end  \r\n.\r\n\r\n8-bit \xff\r\n\r\n\r\n"
)


def fields(message: bytes) -> list[tuple[bytes, bytes]]:
    """The header fields, top down: name in lower case, and the whole field."""
    header = message.partition(b"\r\n\r\n")[0] + b"\r\n"
    found = re.findall(rb"([^:\r\n]+):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header)
    whole = re.findall(rb"[^:\r\n]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header)
    return [(name.strip().lower(), field) for name, field in zip(found, whole, strict=True)]


def relaxed(field: bytes) -> bytes:
    """RFC 6376 §3.4.2."""
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip() + b"\r\n"


def body_hash(message: bytes) -> bytes:
    """RFC 6376 §3.4.3: the body as it is, but for empty lines at its end."""
    body = message.partition(b"\r\n\r\n")[2]
    return base64.b64encode(hashlib.sha256(re.sub(rb"(\r\n)*\Z", b"", body) + b"\r\n").digest())


def signing_input(message: bytes, unsigned: bytes) -> bytes:
    """RFC 6376 §3.7: of each name the lowest field, then the signature's own, without its end."""
    below = fields(message)[::-1]
    chosen = [next(field for name, field in below if name == wanted) for wanted in SIGNED]
    return hashlib.sha256(b"".join(map(relaxed, chosen)) + relaxed(unsigned).rstrip(b"\r\n")).digest()


def sign(message: bytes, key: Ed25519PrivateKey) -> bytes:
    names = b":".join(SIGNED)
    unsigned = b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/simple; d=alpha.example; s=k; h=%b; bh=%b; b=" % (
        names,
        body_hash(message),
    )
    return unsigned + base64.b64encode(key.sign(signing_input(message, unsigned))) + b"\r\n" + message


def verify(message: bytes, key: Ed25519PublicKey) -> None:
    """Raise InvalidSignature unless the message's DKIM signature is good."""
    field = next(field for name, field in fields(message) if name == b"dkim-signature")
    unsigned, _, signature = field.rstrip(b"\r\n").rpartition(b"b=")
    if b"bh=%b;" % body_hash(message) not in field:
        raise InvalidSignature
    unsealed = message.replace(field, b"", 1)
    key.verify(base64.b64decode(signature + b"=="), signing_input(unsealed, unsigned + b"b="))


def test_the_signature_verifies_in_every_kind_of_maildrop(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    signed = sign(MESSAGE, key)
    verify(signed, key.public_key())
    for form in (delivered_form(signed, RECEIPT), released_form(signed, RECEIPT, "from", "another From")):
        assert b"dkim=pass" not in form
        verify(form, key.public_key())
    delivery = [Delivery("id", "alice@alpha.example", 0, delivered_form(signed, RECEIPT))]
    mbox = Mbox(tmp_path / "mbox")
    mbox.deliver(delivery)
    verify(b"".join(mbox.snapshot().chunks(0)), key.public_key())
    Maildir(tmp_path / "Maildir", tmp_path / "journal", "bob").deliver(delivery, lambda ids: None)
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    verify(path.read_bytes().replace(b"\n", b"\r\n"), key.public_key())


@pytest.mark.parametrize(("old", "new"), [(b"two  blanks", b"three"), (b"blanks \t at", b"blanks at")])
def test_the_check_itself_notices_changes(old: bytes, new: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(InvalidSignature):
        verify(sign(MESSAGE, key).replace(old, new), key.public_key())
