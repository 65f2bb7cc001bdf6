"""When a session has lasted long enough: deadlines, not per-read timers, so that a trickle of octets buys no time."""

from dataclasses import dataclass

LINGER = 2.0  # seconds that a client may take to hang up after it was told why its session ends


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds: to log in, between commands after that, and to take what it is sent."""

    login: float = 60.0
    idle: float = 600.0
    write: float = 120.0

    @property
    def often(self) -> float:
        """How many seconds a deadline may have passed before that is noticed."""
        return min(1.0, min(self.login, self.idle, self.write) / 10)


class Deadlines:
    """The deadlines of one session; times are seconds of any clock that never goes back."""

    __slots__ = ("_active", "_made", "_patience", "_progress", "_sent", "_unsent")

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._made = self._active = self._progress = now
        self._sent = self._unsent = 0

    def active(self, now: float) -> None:
        """Note that a command was carried out or its reply taken: RFC 1939 §3 counts the idle time from there."""
        self._active = now

    def idle(self, now: float) -> float:
        """Return for how long nothing has been carried out."""
        return now - self._active

    def check(self, now: float, *, logged_in: bool, busy: bool, written: int, unsent: int) -> tuple[str, float]:
        """Return why the session must end, or an empty text, and when to check again.

        ``busy``: the server is at work on a command. ``written``: octets given to the transport since the beginning;
        ``unsent``: how many of them it still holds.
        """
        patience = self._patience
        if not (unsent and self._unsent and written - unsent == self._sent):  # since the last check it moved, or began
            self._progress = now
        self._sent, self._unsent = written - unsent, unsent
        if unsent:
            self._active = max(self._active, self._progress)  # nobody is idle who still receives
        due, reason = now + patience.idle, ""
        if not logged_in:
            due, reason = self._made + patience.login, "not logged in in time"
        elif not busy and not unsent:
            due, reason = self._active + patience.idle, "idle"
        if unsent and self._progress + patience.write < due:
            due, reason = self._progress + patience.write, "takes nothing"
        if due <= now:
            return reason, now
        return "", min(due, now + patience.write / 4) if unsent else due
