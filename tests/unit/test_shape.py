"""JSON from strangers: only what was asked for, of the type and within the bounds that were asked for."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.shape import FINGERPRINT, ID, MAX_INTEGER, SHA256, Shape, parse_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


class Wrong(Exception):
    """What the parsers here raise."""


def shape(**members: Any) -> Shape:
    return Shape(members, Wrong)


TAKES: dict[str, Callable[[Shape], Any]] = {
    "text": lambda s: s.text("x", 5),
    "match": lambda s: s.match("x", FINGERPRINT),
    "octets": lambda s: s.octets("x"),
    "integer": lambda s: s.integer("x"),
    "flag": lambda s: s.flag("x"),
    "array": lambda s: s.array("x", 2),
    "objects": lambda s: s.objects("x", 2),
    "texts": lambda s: s.texts("x", 2, ID),
    "address": lambda s: s.address("x"),
}


@given(st.binary())
@example(b"\xef\xbb\xbf{}")
@example("{}".encode("utf-16"))
@example(b"[" * 100_000)
@example(b"1" * 10_000)
@example(b'{"a":1e999}')
def test_any_octets_are_json_or_the_error(data: bytes) -> None:
    try:
        value = parse_json(data, Wrong)
    except Wrong:
        return
    assert value == json.loads(data.decode())


@given(JSON)
def test_json_is_parsed(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), Wrong) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{} {}",
        "{'a': 1}",
        "NaN",
        "[Infinity]",
        "-Infinity",
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        "01",
        "\ud800",
    ],
)
def test_no_json(text: str) -> None:
    with pytest.raises(Wrong):
        parse_json(text.encode(errors="surrogatepass"), Wrong)


def test_doubled_names_are_found_at_any_depth() -> None:
    with pytest.raises(Wrong, match="twice"):
        parse_json(b'{"a":[{"b":{"c":1,"c":2}}]}', Wrong)


@given(JSON)
def test_only_objects_have_members(value: Any) -> None:
    if not isinstance(value, dict):
        with pytest.raises(Wrong, match="a JSON object is wanted"):
            Shape(value, Wrong)


@pytest.mark.parametrize("take", TAKES)
@given(value=JSON)
def test_any_member_is_taken_or_the_error(take: str, value: Any) -> None:
    for made in (shape(), shape(x=value)):
        try:
            TAKES[take](made)
        except Wrong as error:
            assert "x" in str(error) or "object" in str(error)


@pytest.mark.parametrize(
    ("take", "value", "taken"),
    [
        ("text", "", ""),
        ("text", "12345", "12345"),
        ("match", "A" * 40, "A" * 40),
        ("match", "0" * 64, "0" * 64),
        ("octets", "00ff" * 8, b"\x00\xff" * 8),
        ("integer", 0, 0),
        ("integer", MAX_INTEGER, 2**63 - 1),
        ("flag", False, False),
        ("array", [1, "a"], [1, "a"]),
        ("texts", ["00ff" * 8], ["00ff" * 8]),
        ("address", "Bob@Beta.Example", Address("Bob", "beta.example")),
    ],
)
def test_taken(take: str, value: Any, taken: Any) -> None:
    assert TAKES[take](shape(x=value)) == taken


@pytest.mark.parametrize(
    ("take", "value"),
    [
        ("text", "123456"),
        ("text", 1),
        ("text", None),
        ("match", "A" * 39),
        ("match", "A" * 41),
        ("match", "a" * 40),
        ("match", "A" * 40 + "\n"),
        ("match", "A" * 300),
        ("octets", "00FF" * 8),
        ("octets", "00 ff" * 8),
        ("octets", "00ff" * 16),
        ("integer", -1),
        ("integer", MAX_INTEGER + 1),
        ("integer", 1.0),
        ("integer", True),
        ("integer", "1"),
        ("flag", 1),
        ("flag", "true"),
        ("array", [1, 2, 3]),
        ("array", "ab"),
        ("array", {}),
        ("objects", [{}, 1]),
        ("objects", [[]]),
        ("texts", ["00ff" * 8, 1]),
        ("texts", ["x"]),
        ("address", "bob"),
        ("address", "\ud800@a.example"),
        ("address", "a@" + "b" * 300),
    ],
)
def test_refused(take: str, value: Any) -> None:
    with pytest.raises(Wrong):
        TAKES[take](shape(x=value))


def test_a_secret_has_its_size() -> None:
    assert shape(x="00" * 32).octets("x", SHA256) == bytes(32)
    with pytest.raises(Wrong):
        shape(x="00" * 16).octets("x", SHA256)


def test_objects_within_objects_raise_the_same_error() -> None:
    (inner,) = shape(x=[{"y": 1}]).objects("x", 1)
    assert inner.integer("y") == 1
    with pytest.raises(Wrong):
        inner.integer("z")
