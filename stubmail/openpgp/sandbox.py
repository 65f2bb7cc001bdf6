"""Bulk decryption in a child process with bounded memory and time.

Sequoia unpacks whatever compression it finds inside a message, without a limit, and holds the interpreter's lock
meanwhile: one hostile message of a few kilobytes could fill the memory or stop the process for hours. So the secret
keys for decryption live in a child that may be killed and started again. As a by-product the parent's other threads
run while it works.
"""

import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from stubmail.openpgp import sandboxed

START_TIME = 30.0  # seconds for the child to come up
MESSAGE_TIME = 5.0  # seconds for a message (unlocking a protected key, once, takes 0.1 on a fast machine), and
TIME_PER_MIB = 1.0  # seconds for each MiB of it; a slow machine does several MiB in one
MEMORY_FACTOR = 10  # octets of memory for each octet of a message, its plain text included (measured: 9)

Signers = Callable[[list[str]], Sequence[bytes]]


class EngineRefusal(Exception):
    """The engine did not open the message; another one may."""


class Sandbox:
    """A child that holds secret keys for decryption. Thread-safe; one message at a time."""

    def __init__(self, keys: Sequence[bytes], passphrase: str) -> None:
        """Take the secret keys (binary, each with one encryption key); the child starts with the first message."""
        self._keys = keys
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def decrypt(self, index: int, message: bytes, signers: Signers | None, max_size: int) -> tuple[bytes, list[str]]:
        """Decrypt with key number ``index``; return the plain text and the fingerprints of the valid signers.

        ``signers`` returns the certificates for the key handles it gets; without it no signature is looked for.
        Raises EngineRefusal when the engine refuses, takes too long or too much memory, or the text is over
        ``max_size`` octets.
        """
        with self._lock:
            try:
                return self._running().decrypt(index, message, signers, max_size)
            except EngineRefusal:
                raise
            except (EOFError, BrokenPipeError, TimeoutError) as error:
                self._stop()
                raise EngineRefusal("it takes too much memory or time to decrypt") from error
            except BaseException:
                self._stop()  # an answer may be on its way: this child cannot be talked to any more
                raise

    def close(self) -> None:
        """End the child; a later message starts another."""
        with self._lock:
            self._stop()

    def _running(self) -> "_Child":
        if self._child and (self._child.owner != os.getpid() or self._child.process.poll() is not None):
            self._stop()
        if not self._child:
            self._child = _Child(self._keys, self._passphrase)
        return self._child

    def _stop(self) -> None:
        if self._child:
            self._child.stop()
            self._child = None


class _Child:
    """One running child and the talk with it."""

    def __init__(self, keys: Sequence[bytes], passphrase: str) -> None:
        self.owner = os.getpid()  # after a fork the child belongs to the parent alone
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(sandboxed.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RUST_BACKTRACE": "0"},
        )
        self.stop = weakref.finalize(self, _end, self.process, self.owner)
        assert self.process.stdin and self.process.stdout
        self._sink, self._source = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._sink, False)
        deadline = time.monotonic() + START_TIME
        self._send(deadline, passphrase.encode(), *keys)
        self._receive(deadline, 1024)

    def decrypt(self, index: int, message: bytes, signers: Signers | None, max_size: int) -> tuple[bytes, list[str]]:
        deadline = time.monotonic() + MESSAGE_TIME + TIME_PER_MIB * (len(message) >> 20)
        memory = MEMORY_FACTOR * len(message)
        self._send(deadline, b"%d" % index, b"%d" % memory, b"signed" if signers else b"", message)
        while True:
            kind, *fields = self._receive(deadline, max_size + 65536)
            if kind == b"signers" and signers:
                self._send(deadline, *signers([field.decode() for field in fields]))
            elif kind == b"ok" and len(fields[0]) <= max_size:
                return fields[0], [field.decode() for field in fields[1:]]
            elif kind == b"error":
                raise EngineRefusal(fields[0].decode())
            else:
                raise EOFError

    def _send(self, deadline: float, *fields: bytes) -> None:
        data = memoryview(sandboxed.pack(*fields))
        while data:
            try:
                data = data[os.write(self._sink, data) :]
            except BlockingIOError:
                _wait(deadline, write=self._sink)

    def _receive(self, deadline: float, limit: int) -> list[bytes]:
        (size,) = struct.unpack(">I", self._read(deadline, 4))
        if size > limit:
            raise EOFError
        return sandboxed.unpack(self._read(deadline, size))

    def _read(self, deadline: float, count: int) -> bytes:
        pieces = []
        while count:
            _wait(deadline, read=self._source)
            piece = os.read(self._source, count)
            if not piece:
                raise EOFError
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def _wait(deadline: float, read: int | None = None, write: int | None = None) -> None:
    waiter = select.poll()
    if read is not None:
        waiter.register(read, select.POLLIN)
    if write is not None:
        waiter.register(write, select.POLLOUT)
    if not waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
    if owner == os.getpid():
        process.kill()
        process.wait()
    else:
        process.returncode = 0  # not ours to wait for
