"""The child process that decrypts: it holds unlocked keys, meets hostile messages, and is expendable.

`sandbox.py` runs it by path and tells why it is there; it needs nothing but pysequoia and the standard library. Frames
go both ways over standard input and output: a count of octets, then fields, each behind its own count; counts have
four octets, big-endian.
"""

import os
import resource
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pysequoia

HEADROOM = 96 << 20  # octets; what Sequoia and the allocator take for a small message: 25 MiB are held back at most


def write_frame(stream: int, *fields: bytes) -> None:
    """Write one frame to a file descriptor, all of it."""
    data = memoryview(pack(*fields))
    while data:
        data = data[os.write(stream, data) :]


def pack(*fields: bytes) -> bytes:
    """Return one frame."""
    content = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    return struct.pack(">I", len(content)) + content


def unpack(content: bytes) -> list[bytes]:
    """Return the fields of one frame, its own count cut off."""
    fields, position = [], 0
    while position < len(content):
        (size,) = struct.unpack_from(">I", content, position)
        fields.append(content[position + 4 : position + 4 + size])
        position += 4 + size
    return fields


def _read_exactly(stream: int, count: int) -> bytes:
    pieces = []
    while count:
        piece = os.read(stream, count)
        if not piece:
            raise EOFError
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def read_frame(stream: int) -> list[bytes]:
    """Read one frame from a file descriptor. Raises EOFError when the other side is gone."""
    (size,) = struct.unpack(">I", _read_exactly(stream, 4))
    return unpack(_read_exactly(stream, size))


def unlock(key: bytes, passphrase: str) -> pysequoia.PyDecryptor | None:
    """Return what decrypts with one secret key; None when this engine cannot use it."""
    for password in dict.fromkeys([passphrase or None, None]):
        try:
            return pysequoia.Tsk.from_bytes(key).decryptor(password)
        except (RuntimeError, OSError, ValueError):
            continue
    return None


@lru_cache(maxsize=256)
def _certificate(data: bytes) -> pysequoia.Cert:
    return pysequoia.Cert.from_bytes(data)


class Child:
    """The loop that answers one parent."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        passphrase, *self.keys = read_frame(source)
        self.passphrase = passphrase.decode()
        self.decryptors: dict[int, pysequoia.PyDecryptor | None] = {}
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.own_memory = pages * resource.getpagesize()
        write_frame(sink, b"ready")

    def serve(self) -> None:
        """Answer until the parent is gone."""
        while True:
            index, memory, signed, message = read_frame(self.source)
            self.limit_memory(self.own_memory + HEADROOM + int(memory))
            try:
                answer = self.decrypt(int(index), message, bool(signed))
            except (RuntimeError, OSError, ValueError) as error:
                answer = [b"error", str(error).partition("\n")[0].encode()]
            write_frame(self.sink, *answer)

    def limit_memory(self, limit: int) -> None:
        """Let the kernel refuse this process more than ``limit`` octets; Sequoia then aborts."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def decrypt(self, index: int, message: bytes, signed: bool) -> list[bytes]:
        """Return the answer for one message: ``ok``, the text, and the fingerprints of those who signed it."""
        if index not in self.decryptors:
            self.decryptors[index] = unlock(self.keys[index], self.passphrase)
        decryptor = self.decryptors[index]
        if decryptor is None:
            return [b"error", b"the key cannot be used"]
        result = pysequoia.decrypt(message, decryptor, store=self.certificates if signed else None)
        signers = dict.fromkeys(signature.certificate.encode() for signature in result.valid_sigs)
        return [b"ok", result.bytes or b"", *signers]

    def certificates(self, ids: Sequence[str]) -> list[pysequoia.Cert]:
        """Ask the parent for the certificates of the keys that a signature names."""
        write_frame(self.sink, b"signers", *(name.encode() for name in ids))
        return [_certificate(data) for data in read_frame(self.source)]


def main() -> None:
    """Serve the parent on standard input and output until it closes them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the secret keys
    try:
        Child(sys.stdin.fileno(), sys.stdout.fileno()).serve()
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
