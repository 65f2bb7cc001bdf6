"""Log lines: one for each event, whatever is in the values."""

import logging
import re
import shlex
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail import log
from stubmail.log import MAX_VALUE, event, format_value

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """What has been logged; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    class Lines(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter(capsys.readouterr().err.splitlines())

    yield Lines()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice@alpha.example", "alice@alpha.example"),
        (42, "42"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ("O'Brien", '"O\'Brien"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("line\r\nfeed", '"line\\r\\nfeed"'),
        ("ü\u2028", '"\\xfc\\u2028"'),
        ("\ud800", '"\\ud800"'),
        (b"\n", "\"b'\\\\n'\""),
    ],
)
def test_values_are_quoted_when_they_have_to_be(value: object, text: str) -> None:
    assert format_value(value) == text


@given(st.text(st.characters()))
def test_a_value_is_one_word_of_printable_ascii(text: str) -> None:
    formatted = format_value(text)
    assert formatted.isascii()
    assert formatted.isprintable()
    assert len(formatted) <= 10 * (MAX_VALUE + 3) + 2
    assert len(shlex.split(f"key={formatted}")) == 1, "a shell's splitter finds its end"


@given(st.text(max_size=MAX_VALUE))
def test_a_value_can_be_read_back(text: str) -> None:
    formatted = format_value(text)
    if formatted.startswith('"'):
        formatted = formatted[1:-1].replace('\\"', '"').encode("ascii").decode("unicode_escape")
    assert formatted == text


def test_a_long_value_is_cut() -> None:
    assert format_value("x" * 10_000) == "x" * MAX_VALUE + "..."


def test_an_event_is_one_line(lines: list[str]) -> None:
    log.setup()
    event(logging.getLogger("store"), "refused", "00ff", reason="mac", note=None, text="a b")
    (line,) = lines
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z store info 00ff refused reason=mac text="a b"', line)


def test_keys_may_be_named_as_the_parameters_are(lines: list[str]) -> None:
    log.setup()
    event(logging.getLogger("store"), "stored", what=1, about=2, logger=3)
    assert next(iter(lines)).endswith("store info - stored what=1 about=2 logger=3")


def test_verbose_adds_debug_lines(lines: list[str]) -> None:
    for verbose, count in ((False, 0), (True, 1)):
        log.setup(verbose)
        event(logging.getLogger("store"), "seen", level=logging.DEBUG)
        assert len([*lines]) == count


def test_setup_twice_does_not_log_twice(lines: list[str]) -> None:
    log.setup()
    log.setup()
    event(logging.getLogger("store"), "stored")
    assert len([*lines]) == 1


def test_other_libraries_are_quiet_and_cannot_break_lines(lines: list[str]) -> None:
    log.setup(verbose=True)
    logging.getLogger("mail.log").info("peer said hello")
    logging.getLogger("urllib3.connectionpool").warning("peer said %s", "a\r\nb\x1b[2J\u2028\x85c")
    (line,) = lines
    assert line.endswith("urllib3.connectionpool warning peer said a\\r\\nb\\x1b[2J\\u2028\\x85c")


@given(st.text(st.characters()))
def test_any_message_of_any_library_is_one_line(text: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, text, None, None)
    formatted = log._Formatter().format(record)
    assert not CONTROL.search(formatted)


def test_a_traceback_follows_its_line(lines: list[str]) -> None:
    log.setup()
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("store").exception("a bug")
    first, *rest = lines
    assert first.endswith("store error a bug")
    assert rest[-1] == "ValueError: broken"


def test_a_flood_of_lines_of_one_kind_is_cut_off_and_counted(lines: list[str]) -> None:
    now = [0.0]
    sparing = log.Sparing(burst=2, seconds=60, clock=lambda: now[0])
    log.setup()
    logger = logging.getLogger("x")
    for _ in range(5):
        sparing.event(logger, "mac", "refused", reason="mac")
    sparing.event(logger, "rate", "refused", reason="rate")
    now[0] = 60.0
    sparing.event(logger, "mac", "refused", reason="mac")
    sparing.event(logger, "mac", "refused", reason="mac")
    assert [line.partition(" - ")[2] for line in lines] == [
        "refused reason=mac",
        "refused reason=mac",
        "refused reason=rate",
        "refused reason=mac suppressed=3",
        "refused reason=mac",
    ]


def test_lines_that_belong_together_are_written_at_once_and_others_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Stream:
        write, flush = staticmethod(written.append), staticmethod(lambda: None)

    root, logger = logging.getLogger(), logging.getLogger("gathered")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("sys.stderr", Stream)
    log.setup()
    with log.together():
        event(logger, "delivered", "1")
        other = threading.Thread(target=event, args=(logger, "refused", "other"))
        other.start()
        other.join()
        with log.together():
            event(logger, "delivered", "2")
    event(logger, "delivered", "3")
    with log.together():
        pass
    assert [re.findall(r"info (\w+) \w+\n", text) for text in written] == [["other"], ["1", "2"], ["3"]]


def test_a_log_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("sys.stderr", Gone())
    log.setup()
    with log.together():
        event(logging.getLogger("gathered"), "delivered", "1")
