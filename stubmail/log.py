"""One line per event: time, service, level, the message's or session's id, what happened, then key=value pairs."""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, TextIO

_PLAIN = re.compile(r"[\x21\x23-\x26\x28-\x3c\x3e-\x5b\x5d-\x7e]+")  # printable ASCII but space, quotes, =, backslash
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_VALUE = 300  # characters of one value; a peer's text must not fill the disk

_gathering = threading.local()  # lines: what ``together`` is to write


def format_value(value: object) -> str:
    """Return a value as it stands in a log line: quoted and escaped when it is not plain ASCII, never two lines."""
    text = str(value)
    if len(text) > MAX_VALUE:
        text = text[:MAX_VALUE] + "..."
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def event(logger: logging.Logger, what: str, about: str = "-", /, level: int = logging.INFO, **pairs: Any) -> None:
    """Log that ``what`` (a past participle: stored, refused) happened to the message or session ``about``.

    Values are escaped; secrets and bodies have no place in them. Pairs whose value is None are left out.
    """
    if logger.isEnabledFor(level):
        details = "".join([f" {key}={format_value(value)}" for key, value in pairs.items() if value is not None])
        lines: list[str] | None = getattr(_gathering, "lines", None)
        if lines is None:
            logger.log(level, "%s %s%s", format_value(about), what, details)
        else:  # what logging would make of it, in half the time
            name = logging.getLevelName(level)
            lines.append(_line(time.time(), logger.name, name, f"{format_value(about)} {what}{details}") + "\n")


class Sparing:
    """Logs what strangers can bring about as often as they like: of each kind, a burst of lines in so many seconds.

    The next line of that kind says how many were suppressed; those are debug lines. For all threads of a process; the
    kinds come from a small fixed set.
    """

    def __init__(self, burst: int = 20, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int, int]] = {}  # since when, lines, suppressed

    def event(
        self, logger: logging.Logger, kind: str, what: str, about: str = "-", /, level: int = logging.INFO, **pairs: Any
    ) -> None:
        """Log as ``event`` does, unless there were enough lines of this kind lately."""
        now = self._clock()
        with self._lock:
            since, lines, suppressed = self._kinds.get(kind, (now, 0, 0))
            if now - since >= self._seconds:
                since, lines = now, 0
            spoken = lines < self._burst
            self._kinds[kind] = (since, lines + 1, 0) if spoken else (since, lines, suppressed + 1)
        if spoken:
            event(logger, what, about, level=level, **pairs, suppressed=suppressed or None)
        else:
            event(logger, what, about, level=logging.DEBUG, **pairs)


@contextmanager
def together() -> Iterator[None]:
    """Have the lines that this thread logs within the block written at its end, by one system call.

    Without ``setup``, or when there is somebody else to be told of them, they are logged one by one. In a block within
    another one, the outer one sees to it.
    """
    lines: list[str] = []
    match logging.getLogger().handlers:
        case [_Handler() as handler] if not hasattr(_gathering, "lines"):
            _gathering.lines = lines
            try:
                yield
            finally:
                del _gathering.lines
                if lines:
                    handler.write(lines)
        case _:
            yield


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


@lru_cache(maxsize=2)
def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _line(created: float, name: str, level: str, text: str) -> str:
    seconds = int(created)
    return f"{_stamp(seconds)}.{int((created - seconds) * 1000):03d}Z {name} {level.lower()} {text}"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _line(record.created, record.name, record.levelname, record.getMessage())
        line = _CONTROL.sub(_escape, line)  # ours are escaped already; other libraries quote their peers as they are
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Handler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(_gathering, "lines", None)
        if lines is None:
            super().emit(record)
        else:
            lines.append(self.format(record) + self.terminator)

    def write(self, lines: list[str]) -> None:
        self.acquire()
        try:
            with suppress(OSError, ValueError):  # as ever: a log that cannot be written stops nobody
                self.stream.write("".join(lines))
                self.flush()
        finally:
            self.release()


def setup(verbose: bool = False) -> None:
    """Send every log line of this process to standard error; ``verbose`` adds debug lines."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    # What no line of ours says need not be found out (Python's logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for noisy in ("mail.log", "asyncio", "urllib3", "gnupg", "alembic"):  # theirs repeat ours, or quote what peers sent
        logging.getLogger(noisy).setLevel(logging.WARNING)
