"""How long refusals take: all as long as the slowest lately, whatever PAM's modules make of a name."""

FADE = 0.98  # what is left of the slowest at each refusal: a busy minute does not make all later ones slow
LONGEST = 5.0  # seconds


class EqualTimes:
    """pam_unix answers for an unknown user sooner than for a wrong password, and so tells who there is."""

    def __init__(self) -> None:
        self._slowest = 0.0

    def wait(self, taken: float) -> float:
        """Return after how many seconds to answer a refusal that has ``taken`` so many to find out."""
        self._slowest = min(LONGEST, max(taken, self._slowest * FADE))
        return max(0.0, self._slowest - taken)
