"""What is held of one domain's mail: what was before a pass, what the pass adds, and what gets another try."""

import logging
from collections import Counter
from collections.abc import Callable

from services.http2mbox.state import HeldPost, PostKey, State
from services.http2mbox.trust import Untrusted
from stubmail.address import Address
from stubmail.log import event
from stubmail.store_answers import Listed

MAX_HELD = 1_000  # posts of one sender; who has more to hold is at war with us, and no more of his is fetched
HELD_SECONDS = 86_400  # until a held post gets another try although nobody has changed his key

_log = logging.getLogger("http2mbox")


class Held:
    """One domain's held posts during one pass; ``senders`` is the digest of its certificates now."""

    def __init__(self, state: State, domain: str, senders: str, recipient: Address, clock: Callable[[], float]) -> None:
        self._state = state
        self._domain = domain
        self._senders = senders
        self._recipient = recipient
        self._clock = clock
        self._before = state.held(domain)
        self._listed: set[PostKey] = set()  # of those and of new ones, what the store has listed in this pass
        self._of_sender: Counter[str] = Counter()

    def decision(self, post: Listed) -> str:
        """What a person wants done with a listed post: RELEASE, DROP, or nothing."""
        held = self._before.get((post.id, post.sender))
        return held.decision if held else ""

    def keeps(self, post: Listed) -> bool:
        """Whether a listed post stays held as it is, since nothing has changed that could change the verdict."""
        held = self._before.get((post.id, post.sender))
        if held is None:
            return False
        self._listed.add((post.id, post.sender))
        if held.decision:
            return False
        if held.senders != self._senders or not 0 <= self._clock() - held.time < HELD_SECONDS:
            return False
        self._of_sender[post.sender] += 1
        return True

    def is_full(self, sender: str) -> bool:
        """Whether so much of this sender's is held that no more of his is to be looked at."""
        return self._of_sender[sender] >= MAX_HELD

    def add(self, post: Listed, verdict: Untrusted) -> None:
        """Hold a post, also one that cannot be released; the log says so when it is news. Raises StateError."""
        self._listed.add((post.id, post.sender))
        self._of_sender[post.sender] += 1
        held = HeldPost(
            id=post.id,
            sender=post.sender,
            domain=self._domain,
            address=str(post.address),
            size=post.size,
            reason=verdict.reason,
            text=verdict.text,
            found=verdict.found,
            expected=verdict.expected,
            is_key_mismatch=verdict.is_key_mismatch,
            senders=self._senders,
            time=int(self._clock()),
        )
        news = self._state.hold(held)
        undone = self.decision(post)
        if undone:
            self._state.decide([held.key], "")
        if news or undone:
            event(
                _log,
                "not-released" if undone else "held",
                post.id.hex(),
                level=logging.WARNING,
                sender=post.address,
                to=self._recipient,
                reason=verdict.reason,
                text=verdict.text,
                found=verdict.found or None,
                expected=verdict.expected or None,
            )

    def conclude(self) -> None:
        """Forget what the store, asked for everything, has not listed any more. Raises StateError."""
        if gone := self._before.keys() - self._listed:
            self._state.unhold(gone)
