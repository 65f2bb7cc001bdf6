"""The bar on the terminal."""

import io
import logging

import pytest

from services.http2mbox.progress import Progress, bar, for_terminal


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ((3, 0, 0), "[                        ] 0 of 0 messages, 3 domains to go"),
        ((1, 5, 10), "[############            ] 5 of 10 messages, 1 domain to go"),
        ((0, 10, 10), "[########################] 10 of 10 messages, 0 domains to go"),
        ((0, 11, 10), "[########################] 11 of 11 messages, 0 domains to go"),
    ],
)
def test_the_line(counts: tuple[int, int, int], line: str) -> None:
    assert bar(*counts) == line


def test_log_lines_find_the_line_empty() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    handler = logging.StreamHandler(stream)
    progress.make_way([handler])
    progress.draw(1, 2, 3)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "delivered", None, None))
    progress.clear()
    before, _, after = stream.getvalue().partition("1 domain to go")
    assert before.startswith("\r\x1b[K[")
    assert after == "\r\x1b[Kdelivered\n"


def test_no_bar_in_a_pipe() -> None:
    assert for_terminal(io.StringIO(), quiet=False) is None
