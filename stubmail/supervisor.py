"""Runs a service's processes as one: starts them, passes signals on, and starts again what dies."""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stubmail.log import event

RESTART_SECONDS = 1.0  # how long after its death a child is started again
START_SECONDS = 10.0  # within which a child finds out that it cannot work; a busy machine takes its time
_HOPELESS = (os.EX_USAGE, os.EX_CONFIG, os.EX_NOPERM, os.EX_UNAVAILABLE, os.EX_OSERR, os.EX_SOFTWARE)

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec there are locks that nobody opens

_log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class Child:
    """One process to run: a name for the log, its command line, and its environment (None: this process's own).

    Its standard output and error are appended to the file ``output``, or are this process's own. It inherits the
    descriptors ``pass_fds`` under their numbers, a listening socket for example.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    output: Path | None = None
    pass_fds: tuple[int, ...] = ()


class Supervisor:
    """Keeps children running until it is stopped.

    A child that dies is started again a second later. One that at its first start ends within START_SECONDS, with a
    sysexits status that another try cannot change (bad configuration, no permission, port in use), ends all. When this
    process is killed, the kernel kills the children too: none is left behind with a port or a lock.
    """

    def __init__(self, children: Sequence[Child], *, drain_seconds: float = 30.0) -> None:
        self._children = children
        self._drain_seconds = drain_seconds
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._status = 0
        self.on_start: Callable[[str, int], None] = lambda name, pid: None

    async def run(self) -> int:
        """Run until ``stop`` or a hopeless child; return the exit status for this process, 0 after ``stop``."""
        tasks = [asyncio.create_task(self._keep(child)) for child in self._children]
        await self._stopping.wait()
        self.signal(signal.SIGTERM)
        _, late = await asyncio.wait(tasks, timeout=self._drain_seconds) if tasks else (None, set())
        if late:
            event(_log, "killed", level=logging.WARNING, names=",".join(sorted(self._processes)))
            self.signal(signal.SIGKILL)
        for task in tasks:
            await task
        return self._status

    def stop(self, status: int = 0) -> None:
        """Ask all children to end, and ``run`` to return ``status`` when they have."""
        self._status = self._status or status
        self._stopping.set()

    def terminate(self) -> None:
        """SIGTERM: drain and end; a second one ends what is still there at once."""
        if self._stopping.is_set():
            event(_log, "killed", level=logging.WARNING, names=",".join(sorted(self._processes)), reason="told twice")
            self.signal(signal.SIGKILL)
        self.stop()

    def signal(self, number: int) -> None:
        """Send a signal to every child that runs."""
        for process in self._processes.values():
            _send(process, number)

    async def _keep(self, child: Child) -> None:
        first = True
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                process = await _start(child)
            except OSError as error:
                event(_log, "failed", child.name, level=logging.ERROR, error=error.strerror)
                self.stop(os.EX_OSERR)
                return
            self._processes[child.name] = process
            self.on_start(child.name, process.pid)
            if self._stopping.is_set():  # told to stop while this one was being started
                _send(process, signal.SIGTERM)
            status = await process.wait()
            del self._processes[child.name]
            if self._stopping.is_set():
                return
            if first and status in _HOPELESS and time.monotonic() - started < START_SECONDS:
                event(_log, "ended", child.name, level=logging.ERROR, status=status)
                self.stop(status)
                return
            first = False
            event(_log, "died", child.name, level=logging.ERROR, status=status, restart_seconds=RESTART_SECONDS)
            try:
                await asyncio.wait_for(self._stopping.wait(), RESTART_SECONDS)
            except TimeoutError:
                continue


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:  # else its pid may be another's by now
        process.send_signal(number)


async def _start(child: Child) -> asyncio.subprocess.Process:
    output = child.output.open("ab") if child.output is not None else None
    try:
        return await asyncio.create_subprocess_exec(
            *child.argv,
            env=child.env,
            stdout=output,
            stderr=output,
            pass_fds=child.pass_fds,
            preexec_fn=die_with_parent,
        )
    finally:
        if output is not None:
            output.close()


def supervise(children: Sequence[Child], *, drain_seconds: float = 30.0) -> int:
    """Run the children until SIGTERM or SIGINT, pass SIGHUP on, and return this process's exit status.

    A second SIGTERM, or the end of ``drain_seconds``, kills the children that are still at work.
    """

    async def run() -> int:
        supervisor = Supervisor(children, drain_seconds=drain_seconds)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.terminate)
        loop.add_signal_handler(signal.SIGHUP, supervisor.signal, signal.SIGHUP)
        return await supervisor.run()

    gc.freeze()  # what is there now stays to the end, and even that would begin with a look through all of it
    return asyncio.run(run())


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
