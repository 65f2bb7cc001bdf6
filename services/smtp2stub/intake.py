"""Makes messages durable before 250 is said: those that come together share one file and its fsyncs (group commit)."""

import asyncio
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from services.smtp2stub.counters import Counters
from stubmail.errors import TemporaryError
from stubmail.log import event
from stubmail.queue import Item, Queue

MAX_TOGETHER = 64  # messages in one file; a file is removed only when all its messages have left
SMALL = 256 * 1024  # octets; a larger message gets a file of its own, and a thread, so that nobody waits for it
LOOK_SECONDS = 0.1  # between looks at how much of the disk is free

_log = logging.getLogger("smtp2stub.receiver")


@dataclass(slots=True)
class _Waiting:
    name: str
    pieces: list[bytes]
    done: "asyncio.Future[None]"


class Intake:
    """Writes accepted messages into the spool; ``close`` it when no more will come."""

    def __init__(self, spool: Queue, reserve: int = 0, counters: Counters | None = None) -> None:
        """``reserve``: octets of the disk that are left free, so that the courier can file what cannot leave now."""
        self._spool = spool
        self._reserve = reserve
        self._free, self._look_again = 0, 0.0  # octets of the disk, and until when that is believed
        self._counters = Counters() if counters is None else counters
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="intake", daemon=True)
        self._thread.start()

    def check_room(self, octets: int = 0) -> None:
        """Raise TemporaryError 4.3.1 when the disk has no room for so many more octets."""
        if time.monotonic() < self._look_again and self._free - octets >= self._reserve:
            return
        try:
            self._free = shutil.disk_usage(self._spool.incoming).free
        except OSError as error:
            raise TemporaryError("4.3.1", "the spool cannot be used now") from error
        self._look_again = time.monotonic() + LOOK_SECONDS
        if self._free - octets < self._reserve:
            raise TemporaryError("4.3.1", "there is no room for mail now")  # RFC 5321 §4.2.4: 452

    async def add(self, item: Item, pieces: Iterable[bytes]) -> None:
        """Put a message, given in pieces, into the spool; when this returns, it is durable there.

        Raises TemporaryError 4.3.1 when the disk does not take it.
        """
        self.check_room(item.size)
        self._free -= item.size
        try:
            await self._add(item, pieces)
        except TemporaryError:
            self._look_again = 0.0
            raise
        self._counters.add("messages accepted")
        self._counters.add("octets accepted", item.size)

    async def _add(self, item: Item, pieces: Iterable[bytes]) -> None:
        head = item.head_to_wire()
        if item.size > SMALL:
            await asyncio.to_thread(self._write, item.id, chain([head], pieces))
            self._spool.ring()
            return
        waiting = _Waiting(item.id, [head, *pieces], asyncio.get_running_loop().create_future())
        self._waiting.put(waiting)
        await waiting.done

    def close(self) -> None:
        """Write what still waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while True:
            group, last = self._take()
            if group:
                self._commit(group)
            if last:
                return

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Wait for a message and take all that came with it; whether the end has come."""
        group: list[_Waiting] = []
        try:
            while len(group) < MAX_TOGETHER:
                waiting = self._waiting.get(block=not group)
                if waiting is None:
                    return group, True
                group.append(waiting)
        except queue.Empty:
            pass
        return group, False

    def _commit(self, group: list[_Waiting]) -> None:
        failure: TemporaryError | None = None
        try:
            self._write(group[0].name, (piece for waiting in group for piece in waiting.pieces))
        except TemporaryError as error:
            failure = error
        else:
            self._spool.ring()
        loop = group[0].done.get_loop()
        with suppress(RuntimeError):  # the loop has been closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_settle, group, failure)

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        try:
            self._spool.accept(name, pieces)
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            event(_log, "failed", name, logging.ERROR, reason=f"cannot write to the spool: {reason}")
            raise TemporaryError("4.3.1", "the message cannot be stored now") from error


def _settle(group: list[_Waiting], failure: TemporaryError | None) -> None:
    for waiting in group:
        if waiting.done.done():  # its client has gone away
            continue
        if failure is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(failure)
