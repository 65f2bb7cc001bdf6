"""What one pass over a store has brought."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """What one pull did, in posts; ``serial`` is the largest that waited at its beginning, from whomever.

    ``complete``: everything up to that serial has been dealt with.
    """

    delivered: int = 0
    repeated: int = 0  # delivered before, now acknowledged
    held: int = 0
    skipped: int = 0  # of senders of whom too much is held already
    dropped: int = 0  # by order, now acknowledged
    notices: int = 0  # about what is held
    gone: int = 0
    waiting: int = 0  # listed and to be delivered; counted by a dry run
    serial: int = 0
    complete: bool = False
