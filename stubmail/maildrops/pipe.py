"""A delivery program as a maildrop: each message on its standard input, what became of it by its exit status.

There is no shell, and nothing that a sender has written becomes an argument. A message is recorded when the program
has ended with 0; a crash right between the two has it given to the program once more, under the same STUB_POST_ID.
"""

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stubmail.errors import TemporaryError, one_line
from stubmail.log import event
from stubmail.maildrops.maildir import stored
from stubmail.mbox import Delivery
from stubmail.mbox.file import Committed

MAX_OUTPUT = 4096  # octets that are kept of what the program says
MAX_TEXT = 200  # characters of it that are passed on
KILL_SECONDS = 2.0  # between SIGTERM and SIGKILL
_POLL_SECONDS = 0.2  # between two looks whether the program has ended, while a child of it keeps its output open
_NAMES = {getattr(os, name): name for name in dir(os) if name.startswith("EX_") and name != "EX_OK"}
_OURS = "STUBMAIL_"  # settings by environment, passphrases perhaps

_log = logging.getLogger("pipe")


class Pipe:
    """Runs ``command`` for each message; ``directory`` is for temporary files, ``seconds`` bounds each run."""

    def __init__(self, command: Sequence[str], recipient: str, directory: Path, seconds: float) -> None:
        self._command = list(command)
        self._recipient = recipient
        self._directory = directory
        self._seconds = seconds
        self._interrupted = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def deliver(self, messages: Sequence[Delivery], committed: Committed) -> Mapping[str, str]:
        """Give the messages to the program, one after the other; ``committed`` gets each id that it has taken.

        Returns what it refuses for good, by id, and in which words. Raises TemporaryError, and goes no further, when it
        ends with 75 (EX_TEMPFAIL), by a signal, or not in time; OSError when it cannot be started.
        """
        refused: dict[str, str] = {}
        for message in messages:
            if self._interrupted.is_set():
                raise TemporaryError("4.3.2", "stopping")
            status, said = self._run(message)
            text = _sentence(status, said)
            if said or status:
                event(_log, "piped", message.id.partition("/")[0], status=status, said=said or None)
            if status is None or status < 0 or status == os.EX_TEMPFAIL:
                raise TemporaryError("4.3.0", text)
            if status:
                refused[message.id] = text
            else:
                committed([message.id])
        return refused

    def recover(self, committed: Committed) -> None:
        """Do nothing: what the program has taken is recorded already."""

    def interrupt(self) -> None:
        """End a delivery under way in another thread, and let no other begin: the process is about to end."""
        self._interrupted.set()
        if (process := self._process) is not None and process.poll() is None:
            _kill(process)

    def _run(self, message: Delivery) -> tuple[int | None, str]:
        """Return the exit status, None when it had to be killed, and what the program said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        environment |= {
            "SENDER": message.sender,
            "RECIPIENT": self._recipient,
            "STUB_POST_ID": message.id.partition("/")[0],
        }
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for piece in stored(message):
                file.write(piece)
            file.seek(0)
            with subprocess.Popen(
                self._command,
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                start_new_session=True,  # so that its children can be killed with it
            ) as process:
                self._process = process
                try:
                    if self._interrupted.is_set():
                        return None, ""
                    return _wait(process, time.monotonic() + self._seconds)
                finally:
                    if process.poll() is None:
                        _kill(process)
                    self._process = None


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[int | None, str]:
    assert process.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(min(left, _POLL_SECONDS)):
                data = os.read(process.stdout.fileno(), MAX_OUTPUT)
                said = (said + data)[:MAX_OUTPUT]
                if not data:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        return process.wait(left), _text(said)
                    break
            elif process.poll() is not None:
                return process.returncode, _text(said)
    return None, _text(said)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
            return


def _text(said: bytes) -> str:
    return one_line(said.decode("utf-8", "replace"))[:MAX_TEXT]


def _sentence(status: int | None, said: str) -> str:
    if status is None:
        text = "the delivery program did not end in time"
    elif status < 0:
        text = f"the delivery program was ended by signal {-status}"
    else:
        name = _NAMES.get(status)
        text = f"the delivery program ended with status {status}{f' ({name})' if name else ''}"
    return f"{text}: {said}" if said else text
