"""How large a request is: told from its header when it is there, for any bytes, and never wrongly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.wsgi_batch import size_of

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@given(st.binary(max_size=300))
def test_any_bytes_have_a_size_or_none(data: bytes) -> None:
    size = size_of(data)
    assert size is None or size == 0 or size >= data.index(b"\r\n\r\n") + 4


@given(st.binary(max_size=200), st.binary(max_size=50), st.sampled_from([b"Content-Length", b"content-LENGTH"]))
def test_a_request_has_as_many_octets_as_it_says(body: bytes, more: bytes, name: bytes) -> None:
    header = HEAD + name + b": %d\r\nX: y\r\n\r\n" % len(body)
    request = header + body
    for end in range(len(request) + 1):
        assert size_of((request + more)[:end]) == (len(request) if end >= len(header) else 0)
    assert size_of(request + more) == len(request)


def test_one_without_a_body_ends_with_its_header() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert size_of(request) == size_of(request + request) == len(request)


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: 1234567890",
        b"Content-Length : 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_the_header_does_not_tell_plainly_is_left_to_gunicorn(field: bytes) -> None:
    assert size_of(HEAD + field + b"\r\n\r\n") is None
