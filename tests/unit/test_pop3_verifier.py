"""Who credentials belong to, by every mechanism, and that nobody learns who is here."""

import hashlib
import hmac

import argon2
import pytest

from services.pop3d.actions import Credentials, DigestLogin, Login, ScramLogin
from services.pop3d.verifier import Verifier
from stubmail.address import Address
from stubmail.passwords import scram_keys, scram_password
from stubmail.scram import Keys, matches
from stubmail.users import User, Users

ARGON2ID = "{ARGON2ID}" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("s\u00e9cret")
SCRAM = scram_password("s\u00e9cret")
PLAIN = "{PLAIN}s\u00e9cret"
CHALLENGE = b"<1.2@stubmail>"


def verifier(*passwords: str) -> Verifier:
    names = ("bob", "carol", "dave", "eve")
    users = [User(name, password=one, maildrop="mbox:x") for name, one in zip(names, passwords, strict=False)]
    return Verifier(Users(users))


def apop(secret: str, name: bytes = b"bob") -> DigestLogin:
    digest = hashlib.md5(CHALLENGE + secret.encode()).hexdigest()
    return DigestLogin(name, CHALLENGE, digest.encode(), "APOP")


def cram(secret: str, name: bytes = b"bob") -> DigestLogin:
    return DigestLogin(name, CHALLENGE, hmac.new(secret.encode(), CHALLENGE, "md5").hexdigest().encode(), "CRAM-MD5")


def test_the_example_of_rfc_1939() -> None:
    users = Users([User("mrose", password="{PLAIN}tanstaaf", maildrop="mbox:x")])
    digest = b"c4c9334bac560ecc979e58001b3e22fb"
    login = DigestLogin(b"mrose", b"<1896.697170952@dbc.mtview.ca.us>", digest, "APOP")
    assert Verifier(users).check(login) is not None


def test_the_example_of_rfc_2195() -> None:
    users = Users([User("tim", password="{PLAIN}tanstaaftanstaaf", maildrop="mbox:x")])
    digest = b"b913a602c7eda7a495b4e6e7334d3890"
    login = DigestLogin(b"tim", b"<1896.697170952@postoffice.reston.mci.net>", digest, "CRAM-MD5")
    assert Verifier(users).check(login) is not None


@pytest.mark.parametrize("stored", [ARGON2ID, SCRAM, PLAIN], ids=["ARGON2ID", "SCRAM", "PLAIN"])
@pytest.mark.parametrize("password", ["s\u00e9cret", "se\u0301cret", "s\u00adécret"])
def test_a_password_is_taken_however_it_was_typed(stored: str, password: str) -> None:
    """RFC 6856 §2.2 and RFC 4013: what looks the same is the same."""
    assert verifier(stored).check(Login(b"bob", password.encode())) is not None


def test_a_password_that_the_users_file_has_as_it_was_typed() -> None:
    assert verifier("{PLAIN}se\u0301cret").check(Login(b"bob", "se\u0301cret".encode())) is not None


@pytest.mark.parametrize("stored", [ARGON2ID, SCRAM, PLAIN], ids=["ARGON2ID", "SCRAM", "PLAIN"])
@pytest.mark.parametrize(
    "login",
    [
        Login(b"bob", b"s\xe9cret"),
        Login(b"bob\0", "s\u00e9cret".encode()),
        Login(b"bob", "s\u00e9cret\0".encode()),
        Login(b"\xff", b"x"),
        Login("bob\u0007é".encode(), "s\u00e9cret".encode()),
        Login(b"bob", b""),
        apop("guess"),
        apop("s\u00e9cret", b"nobody"),
        apop(""),
        cram("guess"),
        DigestLogin(b"bob", CHALLENGE, b"", "APOP"),
        DigestLogin(b"bob", CHALLENGE, b"\xff" * 32, "CRAM-MD5"),
        ScramLogin(b"bob", False, "SCRAM-SHA-256"),
        ScramLogin(b"nobody", True, "SCRAM-SHA-256"),
    ],
)
def test_what_is_not_bobs(stored: str, login: Credentials) -> None:
    assert verifier(stored).check(login) is None


def acting(identity: bytes, name: bytes = b"bob", password: str = "s\u00e9cret") -> list[Credentials]:
    """Credentials of both kinds that say whom to act as."""
    return [Login(name, password.encode(), "PLAIN", identity), ScramLogin(name, True, "SCRAM-SHA-256", identity)]


def two(stored: str) -> Verifier:
    """Knows bob, and carol, who has the same password."""
    addresses = {"bob": "bob@beta.example", "carol": "carol@beta.example"}
    return Verifier(Users([User(name, Address.parse(each), stored, "mbox:x") for name, each in addresses.items()]))


@pytest.mark.parametrize("stored", [SCRAM, PLAIN], ids=["SCRAM", "PLAIN"])
@pytest.mark.parametrize("name", [b"bob", b"Bob@Beta.Example"])
@pytest.mark.parametrize(
    "identity", [b"", b"bob", b"BOB", b"bob@beta.example", b"Bob@BETA.example.", "b\u00adob".encode()]
)
def test_who_acts_as_himself_may_give_any_of_his_names(stored: str, name: bytes, identity: bytes) -> None:
    """RFC 4616 \u00a72 and RFC 5802 \u00a75.1: both names are compared as accounts, not as octets."""
    for login in acting(identity, name):
        user = two(stored).check(login)
        assert user is not None and user.name == "bob"


@pytest.mark.parametrize("stored", [SCRAM, PLAIN], ids=["SCRAM", "PLAIN"])
@pytest.mark.parametrize(
    "identity", [b"carol", b"carol@beta.example", b"nobody", b"bob@alpha.example", b"\xff", b"\0", "\u0007é".encode()]
)
def test_nobody_acts_as_somebody_else(stored: str, identity: bytes) -> None:
    for login in (*acting(identity), *acting(identity, b"no one"), *acting(identity, b"\xff")):
        assert two(stored).check(login) is None


@pytest.mark.parametrize("login", [apop("s\u00e9cret"), cram("s\u00e9cret")])
def test_digests_need_the_secret_itself(login: DigestLogin) -> None:
    assert verifier(PLAIN).check(login) is not None
    assert verifier(ARGON2ID).check(login) is verifier(SCRAM).check(login) is None


def test_a_proof_counts_only_for_who_has_keys() -> None:
    login = ScramLogin(b"bob", True, "SCRAM-SHA-256")
    assert verifier(PLAIN).check(login) is not None
    assert verifier(SCRAM).check(login) is not None
    assert verifier(ARGON2ID).check(login) is verifier("").check(login) is None


def test_who_has_no_secret_cannot_be_guessed_by_a_digest_of_nothing() -> None:
    one = verifier("", PLAIN)
    assert one.check(apop("")) is one.check(cram("")) is None


@pytest.mark.parametrize(
    ("passwords", "challenges", "mechanisms"),
    [
        ([PLAIN, PLAIN], True, ("SCRAM-SHA-256", "CRAM-MD5")),
        ([PLAIN, SCRAM], True, ("SCRAM-SHA-256",)),
        ([SCRAM], False, ("SCRAM-SHA-256",)),
        ([PLAIN, ARGON2ID], True, ()),
        ([ARGON2ID], False, ()),
        ([""], False, ()),
    ],
)
def test_what_is_announced_works_for_everybody(
    passwords: list[str], challenges: bool, mechanisms: tuple[str, ...]
) -> None:
    one = verifier(*passwords)
    assert (one.challenges, one.mechanisms) == (challenges, mechanisms)


def test_keys_for_scram_are_those_kept_or_made_of_the_secret() -> None:
    one = verifier(SCRAM, PLAIN)
    assert one.keys(b"bob") == scram_keys(SCRAM)
    assert matches(one.keys(b"carol"), "s\u00e9cret")


def test_nobodys_keys_look_like_anybodys_and_stay_the_same() -> None:
    kept = "{SCRAM-SHA-256}" + Keys(9000, b"s" * 24, b"k" * 32, b"k" * 32).format()
    one = verifier(kept, ARGON2ID, PLAIN)
    for name in (b"carol", b"nobody", b"\xff"):
        keys = one.keys(name)
        assert (keys.iterations, len(keys.salt)) == (9000, 24)
        assert keys.salt == one.keys(name).salt
    assert one.keys(b"nobody").salt != one.keys(b"nobody2").salt
