"""Bulk decryption in a child process with bounded memory and time.

Sequoia unpacks whatever compression it finds inside a message, without a limit, and holds the interpreter's lock
meanwhile: one hostile message of a few kilobytes could fill the memory or stop the process for hours. So the secret
keys for decryption live in a child that may be killed and started again. As a by-product the parent's other threads
run while it works, and in a stream of messages it has the next ones at hand while the parent deals with the first.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from stubmail.openpgp.sandbox_process import (
    Answer,
    EngineRefusal,
    Job,
    ProcessLost,
    SandboxProcess,
    StaleCertificates,
)

WINDOW = 1 << 20  # octets of messages that a child has before it has answered the first; a larger one it has alone
MAX_AHEAD = 1_000  # messages

__all__ = ["Answer", "EngineRefusal", "Job", "Sandbox"]


class Sandbox:
    """Children that hold secret keys for decryption. Thread-safe.

    There are two at most, one for a stream of messages and one for single messages meanwhile, and one is kept.
    """

    def __init__(self, keys: Sequence[bytes], passphrase: str) -> None:
        """Take the secret keys (binary, each with one encryption key); a child starts when it is needed."""
        self._keys = keys
        self._passphrase = passphrase
        self._single = threading.Lock()
        self._stream = threading.Lock()
        self._mutex = threading.Lock()
        self._idle: SandboxProcess | None = None
        self._is_started = False
        self._closed = 0  # times

    def prepare(self) -> None:
        """Start the first child already, so that it comes up while its first message is on the way."""
        with self._mutex:
            if not self._is_started:
                self._idle = self._start()

    def decrypt(self, job: Job) -> Answer:
        """Decrypt one message.

        Raises EngineRefusal when the engine refuses, takes too long or too much memory, or the text is too long.
        """
        with self._single:
            (answer,) = self._decrypt(iter((job,)))
        if isinstance(answer, EngineRefusal):
            raise answer
        assert answer is not None
        return answer

    def decrypt_all(self, jobs: Iterable[Job | None]) -> Generator[Answer | EngineRefusal | None]:
        """Yield for each message, in order, what ``decrypt`` returns or raises; None for None.

        Jobs are taken before they are needed, as far as WINDOW allows. One stream at a time goes on; a thread must not
        begin another one before it has closed the first.
        """
        with self._stream:
            yield from self._decrypt(iter(jobs))

    def close(self) -> None:
        """End the child that waits for work, and those at work afterwards; a later message starts another."""
        with self._mutex:
            self._closed += 1
            child, self._idle = self._idle, None
        if child:
            child.stop()

    def _decrypt(self, jobs: Iterator[Job | None]) -> Iterator[Answer | EngineRefusal | None]:
        stream = _Stream(jobs)
        while stream.goes_on():
            with self._child() as child:
                stream.begin_with(child)
                while child.is_up and stream.goes_on():
                    stream.hand_out(child)
                    try:
                        answer = child.answer() if stream.given[0] else None
                    except StaleCertificates:
                        break
                    except ProcessLost as error:
                        answer = EngineRefusal(f"its decryption was given up: {error}")
                    stream.given.popleft()
                    yield answer

    @contextmanager
    def _child(self) -> Iterator[SandboxProcess]:
        """Lend the child that waits for work, or a new one, which becomes the one that waits."""
        with self._mutex:
            child, self._idle, closed = self._idle, None, self._closed
        if child and not child.is_usable():
            child.stop()
            child = None
        child = child or self._start()
        try:
            yield child
        finally:
            with self._mutex:
                keep = self._idle is None and closed == self._closed and child.is_usable()
                if keep:
                    self._idle = child
            if not keep:
                child.stop()

    def _start(self) -> SandboxProcess:
        self._is_started = True
        return SandboxProcess(self._keys, self._passphrase)


class _Stream:
    """Jobs in order: those that a child has been given and not yet answered, and one more that is at hand."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        self._jobs = jobs
        self._next = list(islice(jobs, 1))
        self.given: deque[Job | None] = deque()

    def goes_on(self) -> bool:
        """Whether there is something to answer."""
        return bool(self.given or self._next)

    def begin_with(self, child: SandboxProcess) -> None:
        """Give a new child what another one had in vain."""
        for job in self.given:
            if job:
                child.submit(job)

    def hand_out(self, child: SandboxProcess) -> None:
        """Give the child as much as it may have."""
        while self._next and len(self.given) < MAX_AHEAD:
            job = self._next[0]
            if job and child.octets and child.octets + len(job.message) > WINDOW:
                return
            self.given += self._next
            if job:
                child.submit(job)
            self._next = list(islice(self._jobs, 1))
