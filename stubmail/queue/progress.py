"""What became of each recipient of a message so far, and when it is tried again. Sans-IO."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stubmail.errors import PermanentError, StubmailError
from stubmail.queue.item import ItemError


class State(StrEnum):
    """Where one recipient stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's state and why: ``code`` (RFC 3463) and ``text`` of the last attempt, ``via`` which route.

    ``notice`` is the number of the notice (DSN) that tells the sender of the failure; 0 when none does yet.
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
    notices made about it.
    """

    outcomes: list[Outcome]
    attempts: int = 0
    next_try: float = 0.0
    notices: int = field(default=0)

    @classmethod
    def fresh(cls, recipients: int) -> "Progress":
        """Return the progress of a message that nothing has happened to."""
        return cls([Outcome() for _ in range(recipients)])

    def waiting(self) -> list[int]:
        """The indices of the recipients who have still to be served."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome.state is State.WAITING]

    def untold(self) -> list[int]:
        """The indices of the recipients who failed and of whom no notice tells yet."""
        return [i for i, outcome in enumerate(self.outcomes) if outcome.state is State.FAILED and not outcome.notice]

    def to_wire(self) -> bytes:
        """Return the progress as JSON."""
        outcomes = [[str(o.state), o.code, o.text, o.via, o.notice] for o in self.outcomes]
        members = {"attempts": self.attempts, "next_try": self.next_try, "notices": self.notices, "outcomes": outcomes}
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
            progress = cls(outcomes, int(members["attempts"]), float(members["next_try"]), int(members["notices"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ItemError(f"this is not a message's progress: {error}") from error
        if len(outcomes) != recipients:
            raise ItemError(f"the progress is of {len(outcomes)} recipients, not of {recipients}")
        return progress
