"""SCRAM-SHA-256 by RFC 7677's example, and everything a client may get wrong."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.scram import Exchange, Keys, ScramError, derive, matches

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
NONCE = b"rOprNGfwEbeRWgbNEkqO" + SERVER_NONCE
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
FINAL = b"c=biws,r=" + NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
KEYS = derive("pencil", SALT)


def none(kind: str) -> bytes:
    return b""


def exchange(*, plus: bool = False, offered: bool = False) -> Exchange:
    return Exchange(
        SERVER_NONCE, lambda kind: b"data" if kind == "tls-unique" else b"", plus=plus, plus_offered=offered
    )


def prove(one: Exchange, header: bytes, bound: bytes = b"", password: str = "pencil") -> bytes | None:
    """What a client that follows the RFC sends, and what it is answered."""
    bare = b"n=user,r=rOprNGfwEbeRWgbNEkqO"
    one.first(header + bare)
    challenge = one.challenge(KEYS)
    without_proof = b"c=" + base64.b64encode(header + bound) + b",r=" + NONCE
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, 4096)
    client = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client).digest(), b",".join((bare, challenge, without_proof)), "sha256")
    proof = bytes(a ^ b for a, b in zip(client, signature, strict=True))
    return one.final(without_proof + b",p=" + base64.b64encode(proof))


def test_the_example_of_rfc_7677() -> None:
    one = exchange()
    one.first(FIRST)
    assert one.name == b"user"
    assert one.challenge(KEYS) == b"r=" + NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert one.final(FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_wrong_password_proves_nothing() -> None:
    assert prove(exchange(), b"n,,", password="pencils") is None


def test_the_channel_is_bound() -> None:
    assert prove(exchange(plus=True, offered=True), b"p=tls-unique,,", b"data")
    with pytest.raises(ScramError, match="channel"):
        prove(exchange(plus=True, offered=True), b"p=tls-unique,,", b"other")
    with pytest.raises(ScramError, match="not supported"):
        prove(exchange(plus=True, offered=True), b"p=tls-exporter,,", b"data")


@pytest.mark.parametrize(
    ("header", "plus", "offered"),
    [
        (b"y,,", False, True),  # a downgrade
        (b"n,,", True, True),
        (b"y,,", True, True),
        (b"p=tls-unique,,", False, True),
        (b"x,,", False, False),
        (b",,", False, False),
        (b"n,a=,", False, False),
        (b"n,a=o=ther,", False, False),
        (b"n,user,", False, False),
    ],
)
def test_headers_that_contradict(header: bytes, plus: bool, offered: bool) -> None:
    with pytest.raises(ScramError):
        prove(exchange(plus=plus, offered=offered), header)


@pytest.mark.parametrize(
    ("header", "identity"),
    [(b"n,,", b""), (b"y,,", b""), (b"n,a=user,", b"user"), (b"n,a=User@a=2Cb,", b"User@a,b")],
)
def test_headers_that_agree(header: bytes, identity: bytes) -> None:
    one = exchange()
    assert prove(one, header)
    assert (one.name, one.identity) == (b"user", identity)


@pytest.mark.parametrize(
    ("name", "expected"), [(b"a=2Cb", b"a,b"), (b"a=3Db", b"a=b"), (b"\xc3\xa9", b"\xc3\xa9"), (b"a b", b"a b")]
)
def test_names_are_unescaped(name: bytes, expected: bytes) -> None:
    one = exchange()
    one.first(b"n,,n=" + name + b",r=x")
    assert one.name == expected


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=user",
        b"n,,n=,r=x",
        b"n,,n=a=b,r=x",
        b"n,,n=a=2c,r=x",
        b"n,,n=a\0b,r=x",
        b"n,,n=user,r=",
        b"n,,n=user,r=\xff",
        b"n,,n=user,r=a b",
        b"n,,r=x,n=user",
        b"n,,m=1,n=user,r=x",
    ],
)
def test_first_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(ScramError):
        exchange().first(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        FINAL[:-46],
        FINAL.replace(b"c=biws", b"c=eSws"),
        FINAL.replace(b"c=biws", b"c=???"),
        FINAL.replace(b"r=rOp", b"r=xOp"),
        FINAL[:-5],
        FINAL[:-1] + b"\xff",
        b"m=1," + FINAL,
    ],
)
def test_final_messages_that_are_none(message: bytes) -> None:
    one = exchange()
    one.first(FIRST)
    one.challenge(KEYS)
    with pytest.raises(ScramError):
        one.final(message)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_octets_are_borne(first: bytes, final: bytes) -> None:
    for message, last in ((first, final), (FIRST, final), (FIRST, FINAL[:40] + final)):
        one = exchange()
        try:
            one.first(message)
            one.challenge(KEYS)
            assert one.final(last) is None
        except ScramError:
            continue


def test_keys_are_kept_as_text_and_match_their_password_alone() -> None:
    kept = Keys.parse(KEYS.format())
    assert kept == KEYS
    assert matches(kept, "pencil")
    assert not matches(kept, "pencils")
    assert "stored" not in repr(kept)


@pytest.mark.parametrize(
    "text",
    ["", "4096", "0,a,b,c", "-1," + KEYS.format()[5:], "99999999," + KEYS.format()[5:], KEYS.format() + ",x",
     KEYS.format()[:-3], "4096,,," , "٤," + KEYS.format()[5:], KEYS.format().replace("=", "é")],
)  # fmt: skip
def test_texts_that_are_no_keys(text: str) -> None:
    with pytest.raises(ValueError):
        Keys.parse(text)
