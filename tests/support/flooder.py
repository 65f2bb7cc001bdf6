"""A flood of datagrams at full speed, from a process of its own: what they are made of is read from a file.

python -m tests.support.flooder PORT FILE SECONDS

FILE holds datagrams, each behind its length in 4 octets; they are sent over and over. It ends after these seconds, or
on SIGTERM; then it prints how many datagrams it has sent.
"""

import contextlib
import itertools
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import LOOPBACK

_LENGTH = struct.Struct(">I")


@dataclass
class Flood:
    """How many datagrams were sent, known once the flood is over."""

    sent: int = 0


@contextlib.contextmanager
def flood(port: int, datagrams: Iterable[bytes], path: Path, seconds: float = 60.0) -> Iterator[Flood]:
    """Send these datagrams, over and over, until the block ends; ``path`` is a file that may be written."""
    path.write_bytes(b"".join(_LENGTH.pack(len(datagram)) + datagram for datagram in datagrams))
    argv = [sys.executable, "-m", "tests.support.flooder", str(port), str(path), str(seconds)]
    result = Flood()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            yield result
        finally:
            process.terminate()
            result.sent = int(process.stdout.read() or 0)


def _read(path: Path) -> list[bytes]:
    data, datagrams, position = path.read_bytes(), [], 0
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size + length
        datagrams.append(data[position - length : position])
    return datagrams


def main() -> None:
    """Send until told to stop."""
    port, path, seconds = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    deadline, sent = time.monotonic() + seconds, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((LOOPBACK, 0))
        send, place = client.sendto, (LOOPBACK, port)
        print("begun", flush=True)
        for datagram in itertools.cycle(_read(path)):
            with contextlib.suppress(OSError):
                send(datagram, place)
            sent += 1
            if stopped or (sent % 1000 == 0 and time.monotonic() > deadline):
                break
    print(sent, flush=True)


if __name__ == "__main__":
    main()
