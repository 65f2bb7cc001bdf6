"""The users file: what is read, what is refused, who may log in and that refusals look alike."""

from pathlib import Path

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail import users as module
from stubmail.address import Address
from stubmail.passwords import cost
from stubmail.settings import ConfigError
from stubmail.users import User, Users, load_users

ARGON = "{ARGON2ID}" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("s3cret")
ALICE = User("alice", Address.parse("alice@alpha.example"), "{PLAIN}wonder")
BOB = User("Bob", Address.parse("Bob@xn--mnchen-3ya.example"), ARGON)
CAROL = User("carol")


def load(tmp_path: Path, text: str) -> Users:
    path = tmp_path / "users.toml"
    path.write_text(text)
    return load_users(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return caught.value.text


# The file


def test_a_users_file(tmp_path: Path) -> None:
    text = f"""
        [users.alice]
        address = "Alice@Alpha.Example"
        password = "{{PLAIN}}wonder"
        maildrop = "mbox:/var/mail/alice"
        gnupghome = "/keys/alice"
        passphrase_file = "/secrets/alice"
        [users."bob.smith"]
        password = "{ARGON}"
        [users.carol]
    """
    alice, bob, carol = load(tmp_path, text)
    assert alice == User(
        "alice",
        Address("Alice", "alpha.example"),
        "{PLAIN}wonder",
        "mbox:/var/mail/alice",
        Path("/keys/alice"),
        Path("/secrets/alice"),
    )
    assert bob == User("bob.smith", None, ARGON)
    assert carol == CAROL


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "has no users"),
        ("users = 3", "has no users"),
        ("[users]", "has no users"),
        ("[user.alice]", "has no users"),
        ("[users]\nalice = 3", "[users.alice] must be a table of texts"),
        ("[users.alice]\npassword = 3", "[users.alice] must be a table of texts"),
        ('[users.alice]\npasword = "x"', "unknown key 'pasword' in [users.alice]; known are address"),
        ('[users.alice]\nname = "x"', "unknown key 'name'"),
        ('[users.alice]\npassword = "wonder"', "password of [users.alice] must be {PLAIN}"),
        ('[users.alice]\npassword = "{PLAIN}"', "password of [users.alice] must be {PLAIN}"),
        ('[users.alice]\npassword = "{ARGON2ID}x"', "password of [users.alice] must be {PLAIN}"),
        ('[users.alice]\nmaildrop = "/var/mail/alice"', "maildrop of [users.alice] must be mbox:PATH"),
        ('[users.alice]\nmaildrop = "mbox:"', "maildrop of [users.alice] must be mbox:PATH"),
        ('[users.alice]\naddress = "alice"', "address of [users.alice]: 'alice' is not a mail address"),
        ("[users.alice]\n[users.Alice]", "users alice and Alice are both 'alice'"),
        ('[users.a]\naddress = "x@a.example"\n[users.b]\naddress = "X@a.example"', "a and b are both 'x@a.example'"),
        ('[users.a]\naddress = "x@a.example"\n[users."X@a.example"]', "are both 'x@a.example'"),
        ("[users.alice", "is not valid TOML"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in refusal(tmp_path, text)


def test_passwords_stand_in_no_error_and_no_representation(tmp_path: Path) -> None:
    assert "wonder" not in refusal(tmp_path, '[users.alice]\npassword = "wonder"')
    assert "wonder" not in repr(ALICE)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no users file"):
        load_users(tmp_path / "users.toml")


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_any_table_is_users_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, object]
) -> None:
    try:
        module._parse("alice", table, Path("users.toml"))
    except ConfigError as error:
        assert error.text.startswith("users.toml: ")


def test_a_passphrase_is_read_from_its_file(tmp_path: Path) -> None:
    assert ALICE.passphrase() == ""
    (tmp_path / "p").write_text("two words \n")
    assert User("a", passphrase_file=tmp_path / "p").passphrase() == "two words "
    with pytest.raises(ConfigError, match="user a: cannot read"):
        User("a", passphrase_file=tmp_path / "q").passphrase()


# Who is who


@pytest.mark.parametrize(
    "login", ["bob", "BOB", "bob@xn--mnchen-3ya.example", "BOB@MÜNCHEN.example", "bob@münchen.example."]
)
def test_a_user_is_found_by_name_and_address_in_any_form(login: str) -> None:
    assert Users([ALICE, BOB]).find(login) is BOB


@pytest.mark.parametrize("login", ["", "bo", "bob@", "@", "bob@alpha.example", "bob\0", "\ud800@x"])
def test_nobody_is_found_by_anything_else(login: str) -> None:
    assert Users([ALICE, BOB]).find(login) is None


@pytest.mark.parametrize("identity", ["", "bob", "BOB", "bob@münchen.example", "Bob@xn--mnchen-3ya.example."])
def test_who_acts_as_himself_is_found_whichever_name_he_gives_himself(identity: str) -> None:
    users = Users([ALICE, BOB])
    assert users.find("bob", identity) is users.find("BOB@münchen.example", identity) is BOB
    assert users.authenticate("bob", "s3cret", identity) is BOB
    assert users.authenticate("bob", "wrong", identity) is None


@pytest.mark.parametrize("identity", ["alice", "alice@alpha.example", "nobody", "bob@alpha.example", "bob\0", " "])
def test_nobody_acts_as_somebody_else(identity: str) -> None:
    users = Users([ALICE, BOB])
    assert users.find("bob", identity) is None
    assert users.authenticate("bob", "s3cret", identity) is None


def test_all_users_in_their_order() -> None:
    users = Users([BOB, ALICE])
    assert (list(users), len(users)) == ([BOB, ALICE], 2)


# Who may log in


def test_authenticate() -> None:
    users = Users([ALICE, BOB, CAROL])
    assert users.authenticate("alice", "wonder") is ALICE
    assert users.authenticate("ALICE@alpha.example", "wonder") is ALICE
    assert users.authenticate("bob", "s3cret") is BOB
    for login, password in [
        ("alice", "s3cret"),
        ("bob", "wonder"),
        ("alice", ""),
        ("carol", ""),
        ("dave", "x"),
        ("", ""),
    ]:
        assert users.authenticate(login, password) is None


@pytest.mark.parametrize("known", [[ALICE], [BOB], [ALICE, BOB], [CAROL], []])
@pytest.mark.parametrize("login", ["alice", "bob", "carol", "nobody"])
@pytest.mark.parametrize(("identity", "right"), [("", False), ("alice", False), ("no one", False), ("no one", True)])
def test_every_refusal_costs_the_same(
    known: list[User], login: str, identity: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dearest scheme in use is paid for exactly once, whoever asks, and ``right`` though the password may be."""
    users = Users(known)
    paid: list[int] = []

    def check(stored: str, password: str) -> bool:
        paid.append(cost(stored))
        return right

    monkeypatch.setattr(module, "check_password", check)
    assert users.authenticate(login, "guess", identity) is None
    dearest = max((cost(user.password) for user in known if user.password), default=0)
    assert sum(paid) == dearest
    assert paid
