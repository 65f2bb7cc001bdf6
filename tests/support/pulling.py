"""Bob's account and alice's store in memory, for tests of single passes, and posts that break a rule each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.http2mbox.pull import Client, Limits, Pull
from services.http2mbox.state import Standing
from services.http2mbox.tally import Tally
from services.http2mbox.workers import MemoryGate
from stubmail.openpgp import Certificate
from tests.support.fake_store import (
    ALICE_KEY,
    STRANGER_KEY,
    FakeStore,
    ListMaildrop,
    honest_message,
    make_account,
    seal_plainly,
)

DOMAIN = "alpha.example"
HOST = "post.alpha.example"


class Setup:
    """Bob's account with a maildrop in memory, and alice's store."""

    def __init__(self, directory: Path, *certificates: Certificate) -> None:
        self.maildrop = ListMaildrop()
        self.account = make_account(directory, self.maildrop, *certificates)
        self.store = FakeStore()

    def pull(
        self, *, stopping: Callable[[], bool] = lambda: False, client: Client | None = None, **limits: Any
    ) -> Tally:
        one = Pull(
            self.account,
            self.account.contacts(),
            DOMAIN,
            HOST,
            client or self.store,
            Limits(**({"max_post": 100_000} | limits)),
            MemoryGate(10**6),
            stopping,
            lambda: 1_700_000_000.0,
        )
        self.last = one.tally
        return one.run()

    def texts(self) -> list[bytes]:
        return [text for sender, text in self._texts() if sender]

    def notices(self) -> list[bytes]:
        """What is not from a correspondent: whole, headers included."""
        return [message.content for message in self.maildrop.messages if not message.sender]

    def _texts(self) -> list[tuple[str, bytes]]:
        return [(message.sender, message.content.partition(b"\r\n\r\n")[2]) for message in self.maildrop.messages]

    def standing(self) -> Standing:
        return self.account.state.standing()


def forged(bob: Setup, kind: str) -> bytes:
    """Let one post wait that breaks a rule."""
    post_id, message = bytes([9] * 16), honest_message(9)
    contents = {
        "malformed": b"<html>please log in</html>",
        "not-for-us": seal_plainly(post_id, message, to_key="C0" * 20),
        "unsigned": seal_plainly(post_id, message, signer=None),
        "unknown-signer": seal_plainly(post_id, message, signer=STRANGER_KEY),
        "recipient": seal_plainly(post_id, message, tag_for=bytes(16)),
        "from": seal_plainly(post_id, b"From: carol@alpha.example\r\n\r\n"),
        "too-large": seal_plainly(post_id, message + b"x" * 99_999),
        "envelope": b'{"to": "'
        + b"B0" * 20
        + b'", "by": "'
        + ALICE_KEY.encode()
        + b'"}\0From: alice@alpha.example\r\n',
    }
    bob.store.put(post_id, contents[kind])
    if kind == "too-large":
        bob.store.relist(post_id, size=len(contents[kind]))
    return post_id
