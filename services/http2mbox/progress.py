"""A bar on the terminal while a single round is under way; log lines go above it."""

import logging
import os
from typing import TextIO

SECONDS = 0.2  # between two drawings
_WIDTH = 24
_CLEAR = "\r\x1b[K"


class Progress:
    """Draws on ``stream``, which is a terminal, on one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = False

    def draw(self, visits: int, delivered: int, waiting: int) -> None:
        """Show how many visits are under way, and how many of how many messages are here."""
        text = bar(visits, delivered, waiting)
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            columns = 0
        self._write(_CLEAR + text[: (columns or 80) - 1])  # some terminals do not know, and say 0
        self._drawn = True

    def clear(self) -> None:
        """Leave the line empty."""
        if self._drawn:
            self._write(_CLEAR)
            self._drawn = False

    def make_way(self, handlers: list[logging.Handler]) -> None:
        """Clear the line before each record that these handlers write."""
        for handler in handlers:
            handler.addFilter(self._before)

    def _before(self, record: logging.LogRecord) -> bool:
        self.clear()
        return True

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def bar(visits: int, delivered: int, waiting: int) -> str:
    """Return the line: a bar as long as the part of the messages known by now that is here."""
    whole = max(waiting, delivered)
    filled = _WIDTH * delivered // whole if whole else 0
    talks = f"{visits} {'domain' if visits == 1 else 'domains'} to go"
    return f"[{'#' * filled}{' ' * (_WIDTH - filled)}] {delivered} of {whole} messages, {talks}"


def for_terminal(stream: TextIO, quiet: bool) -> Progress | None:
    """Return a bar if ``stream`` is a terminal that can show one, and nobody wants quiet."""
    if quiet or not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    progress = Progress(stream)
    progress.make_way(logging.getLogger().handlers)
    return progress
