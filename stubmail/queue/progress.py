"""What became of each recipient of a message so far, and when it is tried again. Sans-IO."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stubmail.errors import PermanentError, StubmailError
from stubmail.queue.item import ItemError

SILENT = -1  # the number of the notice for outcomes that nobody is to be told of


class State(StrEnum):
    """Where one recipient stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's state and why: ``code`` (RFC 3463) and ``text`` of the last attempt, ``via`` which route.

    ``notice`` is the number of the notice (DSN) that tells the sender how it ended; 0 when none does yet, SILENT when
    none is to: somebody else has taken that over, or a person wants it so.
    """

    state: State = State.WAITING
    code: str = ""
    text: str = ""
    via: str = ""
    notice: int = 0

    @classmethod
    def of(cls, error: StubmailError, via: str = "") -> "Outcome":
        """Return what an error means for the recipient: failed when it is permanent, still waiting otherwise."""
        state = State.FAILED if isinstance(error, PermanentError) else State.WAITING
        return cls(state, error.code, error.text, via)


@dataclass(slots=True)
class Progress:
    """A message's progress: one outcome for each recipient, in the item's order.

    ``attempts`` counts the passes over its waiting recipients; ``next_try`` is Unix time; ``notices`` counts the
    notices made about it; ``delayed`` has, by recipient's index, the number of the notice that told of the delay.
    """

    outcomes: list[Outcome]
    attempts: int = 0
    next_try: float = 0.0
    notices: int = 0
    delayed: dict[int, int] = field(default_factory=dict)

    @classmethod
    def fresh(cls, recipients: int) -> "Progress":
        """Return the progress of a message that nothing has happened to."""
        return cls([Outcome() for _ in range(recipients)])

    def waiting(self) -> list[int]:
        """The indices of the recipients who have still to be served."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome.state is State.WAITING]

    def to_wire(self) -> bytes:
        """Return the progress as JSON."""
        outcomes = [[str(o.state), o.code, o.text, o.via, o.notice] for o in self.outcomes]
        members: dict[str, Any] = {"attempts": self.attempts, "next_try": self.next_try, "notices": self.notices}
        members |= {"outcomes": outcomes, "delayed": list(self.delayed.items())}
        return json.dumps(members, ensure_ascii=False).encode("utf-8", "backslashreplace")

    @classmethod
    def from_wire(cls, data: bytes, recipients: int) -> "Progress":
        """Parse the progress of a message with so many recipients. Raises ItemError."""
        try:
            members: dict[str, Any] = json.loads(data)
            outcomes = [
                Outcome(State(state), str(code), str(text), str(via), int(notice))
                for state, code, text, via, notice in members["outcomes"]
            ]
            delayed = {int(index): int(notice) for index, notice in members.get("delayed", ())}
            numbers = int(members["attempts"]), float(members["next_try"]), int(members["notices"])
            progress = cls(outcomes, *numbers, delayed)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ItemError(f"this is not a message's progress: {error}") from error
        if len(outcomes) != recipients:
            raise ItemError(f"the progress is of {len(outcomes)} recipients, not of {recipients}")
        return progress
