"""popcl from the greeting to QUIT with a server that says anything at all: its own errors, and whole messages only."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from commands.popcl.connection import Connection
from commands.popcl.fetch import Fetcher, Wishes
from commands.popcl.login import log_in
from commands.popcl.mechanisms import MechanismError
from commands.popcl.out_dir import OutDir
from commands.popcl.protocol import ProtocolError
from commands.popcl.session import Limits, Session
from stubmail.auth_file import Credentials
from stubmail.errors import StubmailError, TemporaryError

MESSAGES = [b"Message-ID: <1@x>\r\n\r\n.\r\n", b"Subject: x\r\n\r\n", b""]
WIRE = [b"+OK\r\nMessage-ID: <1@x>\r\n\r\n..\r\n.\r\n", b"+OK\r\nSubject: x\r\n\r\n.\r\n", b"+OK\r\n.\r\n"]
TURNS = [
    b"+OK ready <1@x>\r\n", b"+OK\r\nPIPELINING\r\nSASL PLAIN SCRAM-SHA-256\r\n.\r\n", b"+OK\r\n",
    b"-ERR\r\n", b"+ \r\n",
    b"+OK 3 99\r\n", b"+OK\r\n1 26\r\n2 14\r\n3 0\r\n.\r\n", b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n", *WIRE,
]  # fmt: skip
# What each command is answered with, once all goes well: CAPA, APOP, STAT, LIST, UIDL, RETR, DELE, QUIT.
GOOD = [TURNS[0], b"-ERR\r\n", b"+OK\r\n", *TURNS[5:8], *WIRE, *[b"+OK\r\n"] * 4]


class Talkative:
    """Answers each thing that is sent with the next turn, and hangs up when there are no more."""

    encrypted = False
    is_loopback = True

    def __init__(self, turns: list[bytes]) -> None:
        self._turns: Iterator[bytes] = iter(turns)
        self.sent: list[bytes] = []

    def send(self, octets: bytes, timeout: float) -> None:
        self.sent.append(octets)

    def receive(self, timeout: float) -> bytes:
        turn = next(self._turns, b"")
        if not turn:
            raise TemporaryError("4.4.2", "closed")
        return turn


def run(turns: list[bytes], wishes: Wishes) -> tuple[dict[str, bytes], Exception | None, list[bytes]]:
    """What is in the directory, how it ended, and what was sent."""
    connection = Talkative(turns)
    with tempfile.TemporaryDirectory() as directory, OutDir(Path(directory)) as out:
        failure: Exception | None = None
        try:
            session = Session(cast(Connection, connection), Limits(), itertools.count().__next__)
            session.ask_capabilities()
            log_in(session, Credentials("bob", "open sesame"), lambda _: None)
            Fetcher(session, out).run(wishes)
        except (StubmailError, ProtocolError, MechanismError) as error:
            failure = error
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}, failure, connection.sent


def test_when_all_goes_well() -> None:
    files, failure, sent = run(GOOD, Wishes(delete=True))
    assert failure is None
    assert list(map(files.get, ("1@x", "uidl=b", "uidl=c"))) == MESSAGES
    assert sent[-4:] == [b"DELE 1\r\n", b"DELE 2\r\n", b"DELE 3\r\n", b"QUIT\r\n"]


@given(st.lists(st.sampled_from(TURNS) | st.binary(min_size=1, max_size=30), max_size=25), st.booleans(), st.booleans())
def test_whatever_the_server_says(turns: list[bytes], new_only: bool, delete: bool) -> None:
    run(turns, Wishes(new_only, delete))


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(TURNS) | st.binary(max_size=30), st.booleans())
def test_one_wrong_turn_loses_nothing(at: int, wrong: bytes, cut: bool) -> None:
    turns = list(GOOD)
    turns[at] = GOOD[at][: len(wrong)] if cut else wrong
    files, _, sent = run(turns, Wishes(delete=True))
    if at < 6:  # afterwards a message may be what the wrong turn says
        assert set(files.values()) <= set(MESSAGES)
    for number, turn in enumerate(turns[6:9], 1):
        if b"DELE %d\r\n" % number in sent and turn in WIRE:
            assert MESSAGES[WIRE.index(turn)] in files.values()
