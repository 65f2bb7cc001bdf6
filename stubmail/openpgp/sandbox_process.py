"""One decrypting child process, and the talk with it: messages go ahead, answers come in their order."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stubmail.openpgp import sandboxed

START_TIME = 30.0  # seconds for the child to come up
MESSAGE_TIME = 5.0  # seconds for a message (unlocking a protected key, once, takes 0.1 on a fast machine), and
TIME_PER_MIB = 1.0  # seconds for each MiB of it; a slow machine does several MiB in one
PIPE = 1 << 20  # octets that the kernel keeps on the way, as far as it lets us
READ = 256 << 10  # octets read at once
MANY = 32  # messages not answered, with which a child is busy for longer than
PAUSE = 0.002  # seconds, after which answers are looked for: being woken for each would cost both sides a good deal
PIECES = 64  # written at once, a message being two
GATHERED = 64 << 10  # octets of messages for which a system call is worth while as long as there is no need to wait
ENVIRONMENT = {
    # glibc would give memory back after each message and get it anew for the next one, at a quarter of the time.
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    # Sequoia clears a buffer for each of its readers, and a message goes through several: with 32 KiB, 6 % of the time.
    "SEQUOIA_BUFFERED_READER_BUFFER": str(8 << 10),
}

Signers = Callable[[list[str]], Sequence[bytes]]
Answer = tuple[bytes, list[str]]  # the plain text, and the fingerprints of the valid signers

_digest = lru_cache(maxsize=sandboxed.MAX_KNOWN)(sandboxed.digest_of)


class EngineRefusal(Exception):
    """The engine did not open the message; another one may."""


class ProcessLost(Exception):
    """The child has died, or must, over the oldest message that it has not answered."""


class StaleCertificates(Exception):
    """The child has used certificates that are not those to be used now: another one has to be asked again."""


class Job(NamedTuple):
    """A message to decrypt with key number ``key``, and what there has to be to it.

    ``signers`` returns the certificates for the key handles it gets; without it no signature is looked for. The text
    may have ``max_size`` octets.
    """

    key: int
    message: bytes
    signers: Signers | None
    max_size: int


class SandboxProcess:
    """A running child, for one thread at a time. When ``answer`` raises, the child is not to be used any more."""

    def __init__(self, keys: Sequence[bytes], passphrase: str) -> None:
        """Start it. When it does not come up, the first ``answer`` says so."""
        self._owner = os.getpid()  # after a fork the child belongs to the parent alone
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(sandboxed.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **ENVIRONMENT},
        )
        self.stop = weakref.finalize(self, _end, self._process, self._owner)
        assert self._process.stdin and self._process.stdout
        self._sink, self._source = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._sink, False)
        for pipe in (self._sink, self._source):
            with suppress(OSError):  # what an ordinary user's pipes may hold together is limited
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_octets = 0
        self._received, self._position = b"", 0
        self._jobs: deque[Job] = deque()
        self.octets = 0  # of messages that are not answered yet
        self.is_up = True  # False while it owes an answer that is being waited for, thus for ever when that has failed
        self._is_ready = False
        self._send(passphrase.encode(), *keys)
        self._flush()

    def is_usable(self) -> bool:
        """Whether it lives, is this process's own, and has nothing left to answer."""
        return self.is_up and not self._jobs and self._owner == os.getpid() and self._process.poll() is None

    def submit(self, job: Job) -> None:
        """Have a message decrypted; it may still be on its way when this returns."""
        self._jobs.append(job)
        self.octets += len(job.message)
        self._send(sandboxed.MESSAGE, b"%d" % job.key, b"signed" if job.signers else b"", job.message)

    def answer(self) -> Answer | EngineRefusal:
        """Wait for the answer to the oldest message.

        Raises ProcessLost when there is none, StaleCertificates, and what ``signers`` raises.
        """
        self.is_up = False
        if not self._is_ready:
            self._receive(time.monotonic() + START_TIME, 1024)
            self._is_ready = True
        job = self._jobs[0]
        deadline = time.monotonic() + MESSAGE_TIME + TIME_PER_MIB * (len(job.message) >> 20)
        while True:
            kind, *fields = self._receive(deadline, job.max_size + 65536)
            if kind != sandboxed.SIGNERS:
                break
            found = job.signers(fields[0].decode().split()) if job.signers else ()
            self._send(sandboxed.CERTIFICATES, *found)
        if kind not in (sandboxed.OK, sandboxed.ERROR) or len(fields) != 4:
            raise ProcessLost("it does not answer as it should")
        text, signers, asked, digest = fields
        if asked and job.signers and _digest(tuple(job.signers(asked.decode().split()))) != digest:
            raise StaleCertificates
        self._jobs.popleft()
        self.octets -= len(job.message)
        self.is_up = True
        if kind == sandboxed.ERROR:
            return EngineRefusal(text.decode())
        if len(text) > job.max_size:
            return EngineRefusal("the text is too long")
        return text, signers.decode().split()

    def _send(self, *fields: bytes) -> None:
        """Have a frame written, before an answer is waited for at the latest."""
        head, content = sandboxed.head_of(*fields), fields[-1]
        self._unsent += (head, content)
        self._unsent_octets += len(head) + len(content)
        if self._unsent_octets >= GATHERED or len(self._unsent) >= PIECES:
            self._flush()

    def _flush(self) -> None:
        """Write what can be written now."""
        while self._unsent:
            try:
                written = os.writev(self._sink, list(islice(self._unsent, PIECES)))
            except BlockingIOError:
                return
            except BrokenPipeError:  # what it has answered before counts; then reading tells
                self._unsent.clear()
                self._unsent_octets = 0
                return
            self._unsent_octets -= written
            while self._unsent and written >= len(self._unsent[0]):
                written -= len(self._unsent.popleft())
            if written:
                self._unsent[0] = memoryview(self._unsent[0])[written:]

    def _receive(self, deadline: float, limit: int) -> list[bytes]:
        (size,) = struct.unpack(">I", self._read(deadline, 4))
        if size > limit:
            raise ProcessLost("the text is too long")
        return sandboxed.unpack(self._read(deadline, size))

    def _read(self, deadline: float, count: int) -> bytes:
        data = self._received[self._position : self._position + count]
        self._position += len(data)
        if len(data) == count:
            return data
        pieces, missing = [data], count - len(data)
        self._received, self._position = b"", 0
        while missing > 0:
            self._wait(deadline)
            piece = os.read(self._source, max(missing, READ))
            if not piece:
                raise ProcessLost("it has died")
            pieces.append(piece)
            missing -= len(piece)
        if missing < 0:  # the beginning of the next one has come, too: no piece was longer than READ
            self._received = pieces.pop()
            self._position = len(self._received) + missing
            pieces.append(self._received[: self._position])
        return b"".join(pieces)

    def _wait(self, deadline: float) -> None:
        """Return when there is something to read; meanwhile write what is left to be written."""
        self._flush()
        if len(self._jobs) > MANY:
            time.sleep(PAUSE)
        while True:
            self._flush()
            waiter = select.poll()
            waiter.register(self._source, select.POLLIN)
            if self._unsent:
                waiter.register(self._sink, select.POLLOUT)
            ready = dict(waiter.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                raise ProcessLost("it takes too long")
            if self._source in ready:
                return


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
    if owner == os.getpid():
        process.kill()
        process.wait()
    else:
        process.returncode = 0  # not ours to wait for
