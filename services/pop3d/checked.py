"""Octets that are kept in a file and known to be whole when they come back: a magic, a checksum, and a body."""

import struct
import zlib

_CHECKSUM = struct.Struct("=I")  # CRC-32 of the body


class Damaged(Exception):
    """The octets are something else, or not what was written."""


def seal(magic: bytes, body: bytes) -> bytes:
    """Return a body as it is kept."""
    return magic + _CHECKSUM.pack(zlib.crc32(body)) + body


def unseal(magic: bytes, data: bytes, least: int, error: type[Damaged]) -> memoryview:
    """Return the body, which has ``least`` octets or more. Raises ``error``."""
    body = memoryview(data)[len(magic) + _CHECKSUM.size :]
    if not data.startswith(magic) or len(body) < least:
        raise error("the octets do not begin as they must")
    if _CHECKSUM.unpack_from(data, len(magic)) != (zlib.crc32(body),):
        raise error("the octets are damaged")
    return body
