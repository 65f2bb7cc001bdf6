"""Programs that write to one mailbox at the same time: ``python -m tests.support.mailbox_writers KIND PATH …``."""

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stubmail.mbox import Delivery, Mbox


def message(name: str) -> bytes:
    """A message of its own length that shows whether it is whole."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:4], 16)
    lines = [f"From {name} line {line}" for line in range(number % 97)]
    text = "\r\n".join(["Subject: " + name, "", *lines, ""])
    return f"Check: {hashlib.sha256(text.encode()).hexdigest()}\r\n{text}".encode()


def name_of(content: bytes) -> str:
    """The name of a message that is whole; raises AssertionError for any other."""
    name = content.split(b"\r\n")[1].removeprefix(b"Subject: ").decode()
    assert content == message(name)
    return name


def legacy(path: Path, prefix: str, count: int) -> None:
    """A mail transfer agent of old: dotlock, then fcntl, then a plain append."""
    for number in range(count):
        stored = message(f"{prefix}{number}").replace(b"\r\n", b"\n").replace(b"\nFrom ", b"\n>From ")
        while True:
            try:
                os.close(os.open(f"{path}.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                time.sleep(0.001)
                continue
            with path.open("ab") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    Path(f"{path}.lock").unlink()
                    continue
                file.write(b"From legacy@c.example Thu Jan  1 00:00:00 1970\n" + stored[: len(stored) // 2])
                file.flush()
                file.write(stored[len(stored) // 2 :] + b"\n")
            Path(f"{path}.lock").unlink()
            break
        time.sleep(0.001)  # mail comes one by one, and others get a turn


def deliver(path: Path, prefix: str, count: int) -> None:
    """A puller: batches of up to five, whose ids it records on disk; started anew it goes on where it was."""
    record = path.parent.parent / f"{prefix}.recorded"
    record.touch()
    mbox = Mbox(path, owner=prefix)

    def committed(ids: Sequence[str]) -> None:
        with record.open("a") as file:
            file.write("".join(f"{name}\n" for name in ids))

    mbox.recover(committed)
    done = set(record.read_text().split("\n"))
    names = [name for number in range(count) if (name := f"{prefix}{number}") not in done]
    for at in range(0, len(names), 5):
        mbox.deliver([Delivery(name, "a@a.example", 0, message(name)) for name in names[at : at + 5]], committed)
        print(at, flush=True)


if __name__ == "__main__":
    {"legacy": legacy, "deliver": deliver}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
