"""Which recipients' fate the sender has to be told of, as he asked with NOTIFY (RFC 3461 §4.1). Sans-IO."""

from dataclasses import dataclass, replace

from stubmail.queue import Item, Progress, State

_REASONS = {State.DONE: "SUCCESS", State.FAILED: "FAILURE"}


@dataclass(frozen=True, slots=True)
class Due:
    """What the next notice is about, as indices of recipients: those that came to an end, and those that still wait."""

    ended: tuple[int, ...] = ()
    delayed: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ended or self.delayed)

    def note(self, progress: Progress) -> None:
        """Give the next notice its number, and note that it tells of these."""
        progress.notices += 1
        for index in self.ended:
            progress.outcomes[index] = replace(progress.outcomes[index], notice=progress.notices)
        progress.delayed |= dict.fromkeys(self.delayed, progress.notices)


def due(item: Item, progress: Progress, *, late: bool) -> Due:
    """Return what the sender does not know and wants to; ``late``: the message waits so long that this is news."""
    if item.mail_from is None:  # RFC 5321 §4.5.5
        return Due()
    ended, delayed = [], []
    for index, (recipient, outcome) in enumerate(zip(item.recipients, progress.outcomes, strict=True)):
        if outcome.state is not State.WAITING:
            if not outcome.notice and recipient.wants(_REASONS[outcome.state]):
                ended.append(index)
        elif late and index not in progress.delayed and recipient.wants("DELAY"):
            delayed.append(index)
    return Due(tuple(ended), tuple(delayed))


def tells_of_failure(progress: Progress, number: int) -> bool:
    """Whether the notice with this number has something to say that must not be lost."""
    return any(outcome.notice == number and outcome.state is State.FAILED for outcome in progress.outcomes)
