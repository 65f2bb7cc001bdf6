"""HKP's questions and lists: what is looked for, what is refused, and that no user ID can break a line."""

from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysequoia import CipherSuite, Tsk

from services.keyserver.hkp import HkpError, Lookup, format_index, key_size, parse_keytext, parse_lookup
from stubmail.openpgp import Certificate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
ALICE = Certificate.parse(
    bytes(Tsk.generate(user_id="Alice <alice@alpha.example>", validity_seconds=3600).extract_certificate())
)


@pytest.mark.parametrize(
    ("search", "kind", "value"),
    [
        ("0x" + FINGERPRINT, "fingerprint", FINGERPRINT),
        ("0X" + FINGERPRINT.lower(), "fingerprint", FINGERPRINT),
        ("0x" + "ab" * 32, "fingerprint", "AB" * 32),
        ("0x0123456789abcdef", "key-id", "0123456789ABCDEF"),
        ("Alice@Alpha.Example", "address", "alice@alpha.example"),
        ("<alice@alpha.example>", "address", "alice@alpha.example"),
    ],
)
@pytest.mark.parametrize("op", ["get", "index"])
def test_what_is_looked_for(op: str, search: str, kind: str, value: str) -> None:
    arguments = {"op": op, "options": "mr", "search": search, "exact": "on", "fingerprint": "on"}
    assert parse_lookup(arguments) == Lookup(op, kind, value)


@pytest.mark.parametrize("search", ["Alice", "alice@", "Alice Liddell <alice@alpha.example>"])
def test_part_of_a_user_id_is_for_lists_only(search: str) -> None:
    assert parse_lookup({"op": "index", "search": search}) == Lookup("index", "text", search.lower())
    for arguments in ({"op": "get", "search": search}, {"op": "index", "search": search, "exact": "on"}):
        with pytest.raises(HkpError) as caught:
            parse_lookup(arguments)
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({}, 501),
        ({"op": "stats", "search": "x"}, 501),
        ({"op": "get"}, 400),
        ({"op": "get", "search": "  "}, 400),
        ({"op": "index", "search": "x" * 301}, 400),
        ({"op": "get", "search": "0x01234567"}, 400),  # 32 bits: a key with the same id is made in seconds
        ({"op": "index", "search": "0x01234567"}, 400),
        ({"op": "get", "search": "0x" + "0" * 32}, 400),  # version 3, MD5
        ({"op": "get", "search": "0x" + "0" * 41}, 400),
    ],
)
def test_refused(arguments: dict[str, str], status: int) -> None:
    with pytest.raises(HkpError) as caught:
        parse_lookup(arguments)
    assert caught.value.status == status


@given(st.dictionaries(st.sampled_from(["op", "search", "exact", "options"]), st.text(max_size=60) | st.just("get")))
def test_any_arguments_parse_or_are_refused(arguments: dict[str, str]) -> None:
    try:
        lookup = parse_lookup(arguments)
    except HkpError as error:
        assert error.status in (400, 404, 501)
    else:
        assert lookup.value


@pytest.mark.parametrize("form", [{}, {"keytext": " \n"}, {"keytext": "é"}])
def test_what_is_no_keytext(form: dict[str, str]) -> None:
    with pytest.raises(HkpError):
        parse_keytext(form)


def test_a_list_as_gpg_reads_it() -> None:
    lines = format_index([ALICE], ALICE.created).decode().splitlines()
    created = int(ALICE.created.timestamp())
    assert lines == [
        "info:1:1",
        f"pub:{ALICE.fingerprint}:22:255:{created}:{created + 3600}:",
        "uid:Alice <alice@alpha.example>:::",
    ]


def test_nothing_found_is_a_list_too() -> None:
    assert format_index([], NOW) == b"info:1:0\n"


def test_an_expired_certificate_says_so() -> None:
    assert ALICE.expires is not None
    assert format_index([ALICE], ALICE.expires).decode().splitlines()[1].endswith(":e")


@given(st.lists(st.text(max_size=60), max_size=25))
def test_no_user_id_can_break_out_of_its_field(user_ids: list[str]) -> None:
    listed = replace(ALICE, user_ids=tuple(user_ids))
    lines = format_index([listed], NOW).decode().split("\n")
    assert lines.pop() == ""
    assert [line.split(":")[0] for line in lines] == ["info", "pub"] + ["uid"] * min(len(user_ids), 20)
    assert [unquote(line.split(":")[1]) for line in lines[2:]] == user_ids[:20]
    assert all(line.count(":") == 4 for line in lines[2:])


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (CipherSuite.Cv25519, (22, 255)),
        (CipherSuite.P256, (19, 256)),
        (CipherSuite.P521, (19, 521)),
        (CipherSuite.RSA2k, (1, 2048)),
    ],
)
def test_key_sizes(suite: CipherSuite, expected: tuple[int, int]) -> None:
    key = Tsk.generate(user_id="a <a@a.example>", cipher_suite=suite)
    assert key_size(bytes(key.extract_certificate())) == expected
