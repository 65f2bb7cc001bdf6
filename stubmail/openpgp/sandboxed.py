"""The child process that decrypts: it holds unlocked keys, meets hostile messages, and is expendable.

`sandbox.py` runs it by path and tells why it is there; it needs nothing but pysequoia and the standard library. Frames
go both ways over standard input and output: a count of octets, then fields, each behind its own count; counts have
four octets, big-endian. Further messages may come before the first is answered, and also before the certificates that
it takes; answers come in the order of the messages.
"""

import io
import os
import resource
import struct
import sys
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import pysequoia

HEADROOM = 96 << 20  # octets; what Sequoia and the allocator take for a small message: 25 MiB are held back at most
MEMORY_FACTOR = 10  # octets of memory for each octet of a message, its plain text included (measured: 9)
BUFFER = 256 << 10  # octets read at once; waiting messages are a few of these at most
MAX_KNOWN = 256  # sets of certificates that are kept

MESSAGE, CERTIFICATES, READY, SIGNERS, OK, ERROR = b"message", b"certificates", b"ready", b"signers", b"ok", b"error"

_COUNT = struct.Struct(">I")


def head_of(*fields: bytes) -> bytes:
    """Return the beginning of a frame with these fields, all of it but the content of the last one."""
    parts = [_COUNT.pack(sum(map(len, fields)) + _COUNT.size * len(fields))]
    for field in fields:
        parts += (_COUNT.pack(len(field)), field)
    return b"".join(parts[:-1])


def pack(*fields: bytes) -> bytes:
    """Return one frame."""
    return head_of(*fields) + fields[-1]


def unpack(content: bytes) -> list[bytes]:
    """Return the fields of one frame, its own count cut off."""
    fields, position = [], 0
    while position < len(content):
        (size,) = _COUNT.unpack_from(content, position)
        fields.append(content[position + 4 : position + 4 + size])
        position += 4 + size
    return fields


def digest_of(certificates: Sequence[bytes]) -> bytes:
    """Return what tells these certificates from others; nothing for none."""
    return sha256(pack(*certificates)).digest() if certificates else b""


def own_memory() -> int:
    """Return the octets of address space that this process has."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)  # pathlib would take longer to import than all else here
    try:
        return int(os.read(descriptor, 100).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def unlock(key: bytes, passphrase: str) -> pysequoia.PyDecryptor | None:
    """Return what decrypts with one secret key; None when this engine cannot use it."""
    for password in dict.fromkeys([passphrase or None, None]):
        try:
            return pysequoia.Tsk.from_bytes(key).decryptor(password)
        except (RuntimeError, OSError, ValueError):
            continue
    return None


@lru_cache(maxsize=MAX_KNOWN)
def _certificate(data: bytes) -> pysequoia.Cert:
    return pysequoia.Cert.from_bytes(data)


class Child:
    """The loop that answers one parent."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = io.BufferedReader(io.FileIO(source, closefd=False), BUFFER)
        self.sink = sink
        self.limit = 0
        self.own_memory = own_memory()
        self.waiting: deque[list[bytes]] = deque()
        self.known: dict[bytes, tuple[bytes, list[pysequoia.Cert]]] = {}  # certificates and their digest, by key names
        self.asked = self.digest = b""  # what the present message has led to
        passphrase, *self.keys = self.read_frame()
        self.passphrase = passphrase.decode()
        self.decryptors: dict[int, pysequoia.PyDecryptor | None] = {}
        self.write_frame(READY)

    def serve(self) -> None:
        """Answer until the parent is gone."""
        while True:
            _, index, signed, message = self.waiting.popleft() if self.waiting else self.read_frame()
            self.limit_memory(len(message))
            self.asked = self.digest = b""
            try:
                kind, text, signers = OK, *self.decrypt(int(index), message, bool(signed))
            except (RuntimeError, OSError, ValueError) as error:
                kind, text, signers = ERROR, str(error).partition("\n")[0].encode(), b""
            self.write_frame(kind, text, signers, self.asked, self.digest)

    def limit_memory(self, size: int) -> None:
        """Let the kernel refuse this process more than a message of ``size`` octets needs; Sequoia then aborts."""
        mebibytes = 1 + (size >> 20)
        if mebibytes == self.limit:
            return
        self.limit = mebibytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = self.own_memory + HEADROOM + MEMORY_FACTOR * (mebibytes << 20)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def decrypt(self, index: int, message: bytes, signed: bool) -> tuple[bytes, bytes]:
        """Return the text of a message and the fingerprints of those who signed it, separated by spaces."""
        if index not in self.decryptors:
            self.decryptors[index] = unlock(self.keys[index], self.passphrase)
        decryptor = self.decryptors[index]
        if decryptor is None:
            raise ValueError("the key cannot be used")
        result = pysequoia.decrypt(message, decryptor, store=self.certificates if signed else None)
        signers = dict.fromkeys(signature.certificate for signature in result.valid_sigs)
        return result.bytes or b"", " ".join(signers).encode()

    def certificates(self, ids: Sequence[str]) -> list[pysequoia.Cert]:
        """Return the certificates of the keys that a signature names, as the parent has told now or before."""
        names = " ".join(ids).encode()
        if names in self.known and not self.asked:
            self.asked = names
            self.digest, found = self.known[names]
            return found
        self.write_frame(SIGNERS, names)
        kind, *data = self.read_frame()
        while kind == MESSAGE:
            self.waiting.append([kind, *data])
            kind, *data = self.read_frame()
        found = [_certificate(each) for each in data]
        if found:
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            self.known[names] = digest_of(data), found
        return found

    def read_frame(self) -> list[bytes]:
        """Read one frame. Raises EOFError when the parent is gone."""
        (size,) = _COUNT.unpack(self.read(4))
        if size > BUFFER:
            self.limit_memory(size)  # there must be room for reading it, too
        return unpack(self.read(size))

    def read(self, count: int) -> bytes:
        """Read so many octets. Raises EOFError."""
        data = self.source.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def write_frame(self, *fields: bytes) -> None:
        """Write one frame, all of it."""
        data = memoryview(pack(*fields))
        while data:
            data = data[os.write(self.sink, data) :]


def main() -> None:
    """Serve the parent on standard input and output until it closes them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the secret keys
    try:
        Child(sys.stdin.fileno(), sys.stdout.fileno()).serve()
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
