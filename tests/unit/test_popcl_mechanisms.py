"""popcl's ways to prove a password, against the examples of the RFCs and against our own server's side."""

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.popcl.mechanisms import MAX_ITERATIONS, MechanismError, Plain, Scram, apop
from stubmail.scram import Exchange, ScramError, derive


def challenge(text: str) -> bytes:
    return base64.b64encode(text.encode())


def test_apop_as_in_rfc_1939() -> None:
    greeting = b"POP3 server ready <1896.697170952@dbc.mtview.ca.us>"
    assert apop(greeting, "mrose", "tanstaaf") == "APOP mrose c4c9334bac560ecc979e58001b3e22fb"


@pytest.mark.parametrize(
    "greeting", [b"ready", b"<no at sign>", b"<a@\xff>", b"<a@b c>", b"<@x>", b"<a@b@c", b"<a@\0>"]
)
def test_a_greeting_without_a_timestamp_offers_no_apop(greeting: bytes) -> None:
    assert apop(greeting, "bob", "secret") is None


def test_plain_as_in_rfc_4616() -> None:
    plain = Plain("tim", "tanstaaftanstaaf")
    assert plain.begin() == "AUTH PLAIN"
    assert base64.b64decode(plain.answer(b"")) == b"\0tim\0tanstaaftanstaaf"
    plain.finish()


FIRST = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def rfc_7677() -> Scram:
    scram = Scram("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    assert scram.begin() == "AUTH SCRAM-SHA-256"
    assert base64.b64decode(scram.answer(b"")) == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    return scram


def test_scram_as_in_rfc_7677() -> None:
    scram = rfc_7677()
    assert base64.b64decode(scram.answer(challenge(FIRST))) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert scram.answer(challenge(FINAL)) == ""
    scram.finish()


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ("", "not one of"),
        ("r=rOprNGfwEbeRWgbNEkqO,s=QQ==,i=4096", "not one of"),
        ("r=other,s=QQ==,i=4096", "not one of"),
        ("m=x," + FIRST, "not one of"),
        (FIRST.replace("4096", "1"), "1 iterations"),
        (FIRST.replace("4096", str(MAX_ITERATIONS + 1)), "iterations"),
        (FIRST.replace("4096", "-4096"), "not one of"),
        (FIRST.replace("W22Z", "=2Z"), "not base64"),
    ],
)
def test_a_server_that_would_weaken_scram_gets_no_proof(first: str, text: str) -> None:
    with pytest.raises(MechanismError, match=text):
        rfc_7677().answer(challenge(first))


def test_a_server_that_does_not_know_the_password_is_noticed() -> None:
    scram = rfc_7677()
    scram.answer(challenge(FIRST))
    with pytest.raises(MechanismError, match="without a proof"):
        scram.finish()
    for wrong in ("v=QQ==", "e=other-error", ""):
        scram = rfc_7677()
        scram.answer(challenge(FIRST))
        with pytest.raises(MechanismError, match="does not know the password"):
            scram.answer(challenge(wrong))
    with pytest.raises(MechanismError, match="without a proof"):
        rfc_7677().finish()


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"", challenge(FIRST), challenge(FINAL)]), max_size=4))
def test_any_challenges_are_answered_or_refused_with_one_line(challenges: list[bytes]) -> None:
    for mechanism in (Scram("bob", "secret", "nonce"), Plain("bob", "secret")):
        try:
            for each in challenges:
                assert "\n" not in mechanism.answer(each)
        except MechanismError:
            continue


@pytest.mark.parametrize(("data", "good"), [(b"of the channel", True), (b"another's", False)])
def test_scram_binds_the_channel(data: bytes, good: bool) -> None:
    scram = Scram("bob", "secret", "client-nonce", ("tls-server-end-point", data))
    assert scram.begin() == "AUTH SCRAM-SHA-256-PLUS"
    channel = {"tls-server-end-point": b"of the channel"}
    exchange = Exchange(b"server-nonce", channel.__getitem__, plus=True, plus_offered=True)
    exchange.first(binascii.a2b_base64(scram.answer(b"")))
    first = exchange.challenge(derive("secret", b"salt" * 4))
    answer = binascii.a2b_base64(scram.answer(base64.b64encode(first)))
    if not good:
        with pytest.raises(ScramError, match="the channel is not the one"):
            exchange.final(answer)
        return
    final = exchange.final(answer)
    assert final is not None
    scram.answer(base64.b64encode(final))
    scram.finish()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20))
def test_our_own_server_lets_scram_in_with_any_password(password: str) -> None:
    scram = Scram("bo,b=", password, "client-nonce")
    exchange = Exchange(b"server-nonce", lambda _: b"", plus=False, plus_offered=False)
    exchange.first(binascii.a2b_base64(scram.answer(b"")))
    assert exchange.name == b"bo,b="
    first = exchange.challenge(derive(password, b"salt" * 4))
    final = exchange.final(binascii.a2b_base64(scram.answer(base64.b64encode(first))))
    assert final is not None
    assert scram.answer(base64.b64encode(final)) == ""
    scram.finish()
