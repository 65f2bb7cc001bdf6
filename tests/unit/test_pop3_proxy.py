"""PROXY headers of version 2, whole and in pieces, and everything that is none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.proxy import MAX_REST, SIGNATURE, Header, ProxyError, from_wire, to_wire

V4 = to_wire("192.0.2.7", 40000, "127.0.0.1", 110)
V6 = to_wire("2001:db8::7", 40000, "::1", 110)


def header(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body) if length is None else length) + body


def test_the_octets_of_the_specification() -> None:
    assert bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c0000207 7f000001 9c40 006e") == V4


@pytest.mark.parametrize(("data", "address"), [(V4, "192.0.2.7"), (V6, "2001:db8::7")])
def test_the_clients_address_and_where_its_octets_begin(data: bytes, address: str) -> None:
    assert from_wire(data + b"CAPA\r\n") == Header(address, len(data))
    assert all(from_wire(data[:end]) is None for end in range(len(data)))


def test_more_than_addresses_is_passed_over() -> None:
    tlv = b"\x04\x00\x02ab"
    data = header(0x21, 0x11, V4[16:] + tlv)
    assert from_wire(data + b"x") == Header("192.0.2.7", len(data))


def test_a_proxy_that_speaks_for_itself() -> None:
    assert from_wire(header(0x20, 0x00, b"")) == Header("", 16)
    assert from_wire(header(0x20, 0x11, V4[16:])) == Header("", 28)


@pytest.mark.parametrize(
    "data",
    [
        b"CAPA\r\n",
        b"\r\n\r\nQUIT",
        b"\x16\x03\x01",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 110\r\n",
        header(0x11, 0x11, V4[16:]),
        header(0x22, 0x11, V4[16:]),
        header(0x21, 0x00, b""),
        header(0x21, 0x12, V4[16:]),
        header(0x21, 0x31, b"\0" * 216),
        header(0x21, 0x11, V4[16:-1]),
        header(0x21, 0x21, V4[16:]),
        header(0x21, 0x11, b"", MAX_REST + 1),
    ],
)
def test_what_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ProxyError):
        from_wire(data)


@given(st.binary(max_size=60), st.booleans())
def test_any_octets_are_a_header_or_not_yet_or_an_error(data: bytes, begun: bool) -> None:
    try:
        found = from_wire(SIGNATURE + data if begun else data)
    except ProxyError:
        return
    assert found is None or found.end <= len(SIGNATURE) + len(data)
