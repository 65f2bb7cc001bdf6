"""Password schemes: what matches, what never does, and what it costs to find out."""

import argon2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.passwords import (
    check_password,
    cost,
    decoy,
    hash_password,
    is_usable,
    plain_secret,
    scram_keys,
    scram_password,
)

# Far too weak for use, but as quick as tests have to be.
CHEAP = "{ARGON2ID}" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("s3cret")
DEAR = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

SCRAM = scram_password("s3cret")

UNUSABLE = [
    "",
    "s3cret",
    "{",
    "}",
    "PLAIN}s3cret",
    "{PLAIN}",
    "{MD5}s3cret",
    "{ARGON2ID}",
    "{ARGON2ID}s3cret",
    "{ARGON2ID}$argon2id$",
    "{ARGON2ID}$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$",
    "{ARGON2ID}$argon2i$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
    "{ARGON2ID}$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
    "{ARGON2ID}$argon2id$v=19$m=8,t=0,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
    "{ARGON2ID}é",
    "{SCRAM-SHA-256}",
    "{SCRAM-SHA-256}4096,c2FsdA==",
    "{SCRAM-SHA-256}é",
]


@pytest.mark.parametrize(
    "stored", ["{PLAIN}s3cret", "{plain}s3cret", CHEAP, SCRAM], ids=["PLAIN", "plain", "ARGON2ID", "SCRAM-SHA-256"]
)
def test_only_the_password_matches(stored: str) -> None:
    assert is_usable(stored)
    assert check_password(stored, "s3cret")
    for wrong in ("", "S3cret", "s3cret ", "s3cret\0", "s3cre", stored):
        assert not check_password(stored, wrong)


def test_a_password_may_hold_anything() -> None:
    assert check_password("{PLAIN}a}b{PLAIN}ü ", "a}b{PLAIN}ü ")


@pytest.mark.parametrize("stored", UNUSABLE)
def test_an_unusable_entry_matches_nothing(stored: str) -> None:
    assert not is_usable(stored)
    for password in ("", "s3cret", stored):
        assert not check_password(stored, password)


@given(st.text(st.characters()), st.text(st.characters()))
@example("{PLAIN}\ud800", "\ud800")
@example(CHEAP, "\udc80")
@example("{ARGON2ID}é", "x")
def test_any_entry_and_password_are_compared_without_an_error(stored: str, password: str) -> None:
    for entry in (stored, "{PLAIN}" + stored, "{ARGON2ID}" + stored):
        is_usable(entry)
        cost(entry)
        assert check_password(entry, password) in (True, False)
    assert check_password("{PLAIN}" + stored, stored) is bool(stored)


def test_a_new_hash_is_argon2id_and_salted() -> None:
    first, second = hash_password("s3cret"), hash_password("s3cret")
    assert first.startswith("{ARGON2ID}$argon2id$")
    assert first != second
    assert check_password(first, "s3cret")


def test_cost_orders_entries() -> None:
    assert cost("{PLAIN}x") < cost(CHEAP) < cost(DEAR)


@pytest.mark.parametrize("stored", ["{PLAIN}s3cret", CHEAP, SCRAM], ids=["PLAIN", "ARGON2ID", "SCRAM-SHA-256"])
def test_a_decoy_costs_the_same_and_matches_nothing(stored: str) -> None:
    fake = decoy(stored)
    assert is_usable(fake)
    assert cost(fake) == cost(stored)
    assert fake != decoy(stored)
    assert not check_password(fake, "s3cret")


def test_what_protocols_need_that_do_not_send_the_password() -> None:
    assert plain_secret("{PLAIN}s3cret") == "s3cret"
    assert plain_secret(CHEAP) == plain_secret(SCRAM) == plain_secret("") == ""
    assert scram_keys(SCRAM) is not None
    assert scram_keys("{PLAIN}s3cret") is scram_keys(CHEAP) is None


def test_an_entry_of_dovecot_matches() -> None:
    keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    assert check_password("{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==," + keys, "pencil")
