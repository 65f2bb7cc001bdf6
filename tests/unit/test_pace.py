"""PacedReader: how much waiting, and how much that is no content, an answer may consist of."""

import io
from types import SimpleNamespace

import pytest

from stubmail import pace
from stubmail.pace import GRACE_SECONDS, MAX_OVERHEAD, MIN_RATE, PacedReader


class Peer(io.RawIOBase):
    """Gives ``octets`` at each read, after ``seconds``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, octets: int, seconds: float) -> None:
        self.octets = octets
        self.seconds = seconds
        self.now = 0.0
        monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: self.now))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = min(self.octets, len(buffer))
        buffer[:count] = bytes(count)
        self.now += self.seconds
        return count


def test_a_peer_that_keeps_the_rate_is_read_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(monkeypatch, MIN_RATE * 20, 20.0)
    reader = PacedReader(peer)
    for _ in range(1000):
        assert len(reader.read(65536) or b"") == MIN_RATE * 20
        reader.got_content()
    assert peer.now == 20_000


def test_a_peer_below_the_rate_is_given_up_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(monkeypatch, MIN_RATE * 20 - 1, 20.0)
    reader = PacedReader(peer)
    with pytest.raises(TimeoutError, match="too slowly"):
        while True:
            reader.read(65536)
            reader.got_content()
    assert GRACE_SECONDS < peer.now <= GRACE_SECONDS + 20


def test_the_readers_own_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(monkeypatch, 1, 0.001)
    reader = PacedReader(peer)
    for _ in range(100):
        assert reader.read(1) == b"\0"
        peer.now += 3600


def test_overhead_is_bounded_between_two_pieces_of_content(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PacedReader(Peer(monkeypatch, 1000, 0.0))
    for _ in range(3):
        for _ in range(MAX_OVERHEAD // 1000):
            reader.read(1000)
        reader.got_content()
    for _ in range(MAX_OVERHEAD // 1000 + 1):
        reader.read(1000)
    with pytest.raises(OSError, match="too much around"):
        reader.read(1000)


def test_closing_closes_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(monkeypatch, 1, 0.0)
    PacedReader(peer).close()
    assert peer.closed
