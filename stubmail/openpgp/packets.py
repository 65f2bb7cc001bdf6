"""OpenPGP packet framing and ASCII armour: what both engines agree on, read without either."""

import base64
import binascii
from collections.abc import Iterator
from typing import NamedTuple

from stubmail.openpgp.errors import OpenPGPError

# Packet type IDs, RFC 9580 §5; 20 is GnuPG's OCB packet, which the RFC only reserves.
PKESK, SIGNATURE, SKESK, ONE_PASS, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY = 1, 2, 3, 4, 5, 6, 7
COMPRESSED, SED, MARKER, LITERAL, USER_ID, PUBLIC_SUBKEY, SEIPD, OCB = 8, 9, 10, 11, 13, 14, 18, 20

_STREAMED = {COMPRESSED, SED, LITERAL, SEIPD, OCB}  # only these may come in pieces, RFC 9580 §4.2.1.4
_SMALL_PIECES = 64  # pieces under 512 octets that a packet may have; without a bound they would cost more than the data


class Packet(NamedTuple):
    """One packet inside ``source``: its type, where it begins and ends, and where the pieces of its body stand."""

    source: bytes
    tag: int
    start: int
    stop: int
    pieces: tuple[tuple[int, int], ...]

    @property
    def raw(self) -> bytes:
        """The packet with its header, as it stands in the source."""
        return self.source[self.start : self.stop]

    @property
    def body(self) -> bytes:
        """The packet's content, its pieces joined."""
        return b"".join(self.source[start:stop] for start, stop in self.pieces)

    def peek(self, count: int) -> bytes:
        """Return the first octets of the body, ``count`` of them at most."""
        start, stop = self.pieces[0]
        return self.source[start : min(stop, start + count)]


def read_packets(data: bytes, limit: int) -> Iterator[Packet]:
    """Yield the packets of binary ``data``, ``limit`` of them at most. Raises OpenPGPError."""
    position = count = 0
    while position < len(data):
        count += 1
        if count > limit:
            raise OpenPGPError("too-large", f"there are more than {limit} OpenPGP packets")
        packet = _read_packet(data, position)
        yield packet
        position = packet.stop


def _read_packet(data: bytes, start: int) -> Packet:
    first = data[start]
    if not first & 0x80:
        raise OpenPGPError("malformed", "this is not OpenPGP data")
    if first & 0x40:  # RFC 9580 §4.2.1, OpenPGP format
        tag, position = first & 0x3F, start + 1
        pieces = tuple(_read_pieces(data, position, tag))
    else:  # RFC 9580 §4.2.2, legacy format
        tag, kind = first >> 2 & 0x0F, first & 3
        position = start + 1 + (1, 2, 4, 0)[kind]
        if kind == 3:
            if tag not in _STREAMED:
                raise OpenPGPError("malformed", "an OpenPGP packet does not say where it ends")
            size = len(data) - position
        else:
            size = int.from_bytes(data[start + 1 : position], "big")
        pieces = (_piece(data, position, size),)
    return Packet(data, tag, start, pieces[-1][1], pieces)


def _read_pieces(data: bytes, position: int, tag: int) -> Iterator[tuple[int, int]]:
    allowance = _SMALL_PIECES
    while True:
        octet = data[position] if position < len(data) else 0
        if 224 <= octet < 255:  # RFC 9580 §4.2.1.4, a piece and more to come
            size = 1 << (octet & 0x1F)
            allowance -= size < 512
            if tag not in _STREAMED or allowance < 0:
                raise OpenPGPError("malformed", "an OpenPGP packet comes in pieces that it must not have")
            piece = _piece(data, position + 1, size)
            yield piece
            position = piece[1]
            continue
        if octet < 192:
            yield _piece(data, position + 1, octet)
        elif octet < 224:
            low = data[position + 1] if position + 1 < len(data) else 0
            yield _piece(data, position + 2, (octet - 192 << 8) + low + 192)
        else:
            yield _piece(data, position + 5, int.from_bytes(data[position + 1 : position + 5], "big"))
        return


def _piece(data: bytes, start: int, size: int) -> tuple[int, int]:
    if start + size > len(data):
        raise OpenPGPError("malformed", "the OpenPGP data is cut off")
    return start, start + size


def armor(data: bytes, title: str) -> bytes:
    """Return ``data`` in ASCII armour (RFC 9580 §6.2) under a title such as ``PGP PUBLIC KEY BLOCK``."""
    text = base64.b64encode(data)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    check = b"=" + base64.b64encode(_crc24(data).to_bytes(3, "big"))  # old programs still insist on it
    return b"\n".join(
        [b"-----BEGIN %b-----" % title.encode(), b"", *lines, check, b"-----END %b-----\n" % title.encode()]
    )


def dearmor(text: bytes, title: str) -> bytes:
    """Return the octets in the one armoured block that ``text`` holds. Raises OpenPGPError.

    Text around the block is ignored; a second block, of whatever title, is refused. The checksum is not verified, as
    RFC 9580 §6.1 asks: what is inside is signed.
    """
    lines = [line.strip() for line in text.splitlines()]
    begin, end = b"-----BEGIN %b-----" % title.encode(), b"-----END %b-----" % title.encode()
    borders = [line for line in lines if line.startswith((b"-----BEGIN ", b"-----END "))]
    if borders != [begin, end] or lines.index(begin) > lines.index(end):
        raise OpenPGPError("malformed", f"this is not exactly one {title}")
    block = lines[lines.index(begin) + 1 : lines.index(end)]
    if b"" not in block:
        raise OpenPGPError("malformed", "the ASCII armour lacks its empty line")
    content = [line for line in block[block.index(b"") + 1 :] if line and not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(content), validate=True)
    except binascii.Error as error:
        raise OpenPGPError("malformed", "the ASCII armour is damaged") from error


def _crc24(data: bytes) -> int:
    register = 0xB704CE  # RFC 9580 §6.1.1
    for octet in data:
        register ^= octet << 16
        for _ in range(8):
            register = register << 1 ^ (0x1864CFB if register & 0x800000 else 0)
    return register & 0xFFFFFF
