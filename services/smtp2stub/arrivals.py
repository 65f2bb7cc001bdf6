"""The files that the receiver leaves in ``incoming``: which is next, what still needs each, when it may go."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field

from stubmail.log import event
from stubmail.queue import ItemError, Queue, Stored

OnDisk = Callable[[Callable[[], None]], Awaitable[None]]  # runs something that waits for the disk

_log = logging.getLogger("smtp2stub.courier")


@dataclass(slots=True)
class _File:
    """One file: the messages in it, those of them that have no other place, and those that are gone for good."""

    name: str
    messages: list[str]
    needed: set[str]
    durably: bool
    gone: list[str] = field(default_factory=list)


class Arrivals:
    """Keeps track of the files in ``incoming``; all methods but ``release`` return at once."""

    def __init__(self, queue: Queue, on_disk: OnDisk) -> None:
        self._queue = queue
        self._on_disk = on_disk
        self._backlog: deque[str] = deque()
        self._files: dict[str, _File] = {}
        self._file_of: dict[str, _File] = {}  # by queue id

    def look(self) -> None:
        """See what is new; while there is a backlog, that can wait."""
        if not self._backlog:
            self._backlog.extend(name for name in self._queue.arrivals() if name not in self._files)

    def has_backlog(self) -> bool:
        """Whether ``take`` may have something."""
        return bool(self._backlog)

    def take(self, filed: Container[str]) -> list[Stored]:
        """Return the messages of the next file, oldest first, less those that are filed already.

        Each is to be released, sooner or later.
        """
        name = self._backlog.popleft()
        try:
            records = self._queue.arrived(name)
        except FileNotFoundError:
            return []
        except ItemError as error:
            event(_log, "damaged", name, logging.ERROR, reason=error)
            self._queue.set_aside(name)
            return []
        fresh = [stored for stored in records if stored.item.id not in filed]
        needed = {stored.item.id for stored in fresh}
        file = _File(name, [stored.item.id for stored in records], needed, durably=len(fresh) < len(records))
        self._files[name] = file
        self._file_of.update(dict.fromkeys(file.messages, file))
        if not fresh:  # a crash came between the filing of the last message and the removal of the file
            self._queue.remove_arrival(name, durably=True)
            self._forget(file)
        return fresh

    async def release(self, queue_id: str, *, filed: bool) -> list[str]:
        """A message has been filed, or has left in a way that may be repeated: it does not need its file any more.

        Returns the messages of which now nothing but their own file is left, and that file may go, too.
        """
        file = self._file_of.get(queue_id)
        if file is None:  # released before, when a fault came behind it
            return []
        file.needed.discard(queue_id)
        file.durably = file.durably or filed
        if file.needed:
            return []
        if file.durably:
            await self._on_disk(lambda: self._queue.remove_arrival(file.name, durably=True))
        else:
            self._queue.remove_arrival(file.name, durably=False)
        self._forget(file)
        return file.gone

    def is_here(self, queue_id: str) -> bool:
        """Tell whether a file in ``incoming`` still has the message."""
        return queue_id in self._file_of

    def gone(self, queue_id: str) -> None:
        """A filed message is gone for good; its own file has to outlive the record here, which would bring it back."""
        self._file_of[queue_id].gone.append(queue_id)

    def _forget(self, file: _File) -> None:
        del self._files[file.name]
        for queue_id in file.messages:
            del self._file_of[queue_id]
