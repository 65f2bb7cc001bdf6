"""A light UDP client: sends datagrams that were made beforehand, some in flight at a time, and counts the answers.

It takes and gives many datagrams with one system call (sendmmsg(2), recvmmsg(2)), so that its work is a fraction of
any server's in Python.
"""

import ctypes
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
IN_FLIGHT = 64
RECEIVE = 256  # datagrams taken at once
SPACE = 128  # octets for an answer
PATIENCE = 0.2  # seconds without any answer, after which what is in flight counts as lost

_MSG_WAITFORONE = 0x10000
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):  # struct iovec
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):  # struct msghdr
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):  # struct mmsghdr
    _fields_ = [("header", _Header), ("length", ctypes.c_uint)]


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers, datagrams without one, and how long it took."""

    answers: int
    lost: int
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


class Datagrams:
    """Datagrams of one size, ready to be sent."""

    def __init__(self, datagrams: Sequence[bytes]) -> None:
        self.count = len(datagrams)
        self._octets = ctypes.create_string_buffer(b"".join(datagrams))
        self.messages = _messages(self._octets, self.count, len(datagrams[0]))


def _messages(octets: "ctypes.Array[ctypes.c_char]", count: int, size: int) -> "ctypes.Array[_Message]":
    messages = (_Message * count)()
    base = ctypes.addressof(octets)
    for index in range(count):
        vector = _Vector(base + index * size, size)
        messages[index].header.vectors = ctypes.pointer(vector)
        messages[index].header.count = 1
    return messages


def load(port: int, datagrams: Datagrams, *, seconds: float = 0.0, once: bool = False) -> Load:
    """Send datagrams to a port of this machine for some seconds, over and over, or each of them ``once``."""
    buffer = ctypes.create_string_buffer(SPACE * RECEIVE)
    taken = _messages(buffer, RECEIVE, SPACE)
    start, size = ctypes.addressof(datagrams.messages), ctypes.sizeof(_Message)
    answers = lost = in_flight = position = sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(PATIENCE * 1e6)))
        client.connect((LOOPBACK, port))
        began = time.perf_counter()
        while sent < datagrams.count if once else time.perf_counter() - began < seconds:
            room = min(IN_FLIGHT - in_flight, datagrams.count - position)
            done = _LIBC.sendmmsg(client.fileno(), ctypes.c_void_p(start + size * position), room, 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            in_flight, sent, position = in_flight + done, sent + done, (position + done) % datagrams.count
            got = _LIBC.recvmmsg(client.fileno(), taken, RECEIVE, _MSG_WAITFORONE, None)
            if got > 0:
                answers, in_flight = answers + got, max(0, in_flight - got)
            else:
                lost, in_flight = lost + in_flight, 0
        return Load(answers, lost, time.perf_counter() - began)
