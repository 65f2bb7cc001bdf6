"""A server as a process: its event loop, its limits, and what signals do."""

import asyncio
import resource
import signal
import sys
from collections.abc import Callable, Sequence

from services.pop3d.server import Bound, Server

# A thread that opens a mailbox gives way at each system call, and gets its turn back after so long when the event loop
# is busy; with Python's 5 ms one client's flood of commands makes the others' logins a hundred times slower.
SWITCH_SECONDS = 0.0002
DESCRIPTORS = 4  # a session needs: its socket, the maildrop's lock, a message being read, and one to spare


def run(make: Callable[[], Server], sessions: int, bound: Sequence[Bound] | None = None) -> None:
    """Make a server for so many ``sessions`` and serve until SIGTERM or SIGINT; SIGHUP has it read things again.

    ``bound``: sockets to listen on, when they are bound already.
    """
    allow_descriptors(sessions * DESCRIPTORS)
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(make, bound))


async def serve(make: Callable[[], Server], bound: Sequence[Bound] | None) -> None:
    """Serve until told to stop, then drain."""
    server = make()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()  # the loop alone would let a task be collected before its end

    def reload() -> None:
        task = loop.create_task(server.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await server.start(bound)  # who reads that it listens may send signals
    await stop.wait()
    await server.drain()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loops where it is installed: with them an idle TLS session takes a sixth of the memory."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files as far as is wanted and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
