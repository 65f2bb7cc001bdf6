"""The one error that OpenPGP work raises, with a stable word for logs, counters and callers."""

from typing import Literal

from stubmail.errors import PermanentError

Reason = Literal[
    "malformed",
    "too-large",
    "not-for-us",
    "unsigned",
    "bad-signature",
    "unknown-signer",
    "expired",
    "revoked",
    "cannot-encrypt",
    "wrong-passphrase",
    "unsupported",
]

# RFC 3463 §3.8: 5.7.5 cryptographic failure, 5.7.6 algorithm not supported, 5.7.7 message integrity failure;
# §3.4: 5.3.4 message too big for system.
_CODES: dict[Reason, str] = {
    "malformed": "5.7.5",
    "too-large": "5.3.4",
    "not-for-us": "5.7.5",
    "unsigned": "5.7.7",
    "bad-signature": "5.7.7",
    "unknown-signer": "5.7.7",
    "expired": "5.7.5",
    "revoked": "5.7.5",
    "cannot-encrypt": "5.7.5",
    "wrong-passphrase": "5.7.5",
    "unsupported": "5.7.6",
}


class OpenPGPError(PermanentError):
    """A key, signature or ciphertext cannot be used: ``reason`` is one stable word, ``text`` a sentence."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(_CODES[reason], text)
        self.reason: Reason = reason
