"""`stubmail cookies flush`: which jars it empties."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands.cookies import cookies
from stubmail.address import Address
from stubmail.cookies import FILE_NAME, CookieJar, account_directory

BOB, CAROL = Address("bob", "beta.example"), Address("carol", "beta.example")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    for address in (BOB, CAROL):
        directory = account_directory(state, address)
        directory.mkdir(parents=True)
        jar = CookieJar(directory / FILE_NAME)
        jar.put("http://one.example/p", bytes(16), bytes(32))
        jar.put("http://two.example/p", bytes(16), bytes(32))
        jar.save()
    (state / "heartbeat").touch()
    (tmp_path / "stub.conf").write_text(f'[http2mbox]\nusers = "users.toml"\nstate = "{state}"\ninterval_seconds = 5\n')
    return state


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cookies, ["flush", "--config", str(state.parent / "stub.conf"), *arguments])


def left(state: Path) -> set[str]:
    return {path.parent.name for path in state.glob(f"*/{FILE_NAME}")}


def test_all_accounts(state: Path) -> None:
    result = run(state)
    assert (result.exit_code, result.output) == (0, "4 cookies deleted\n")
    assert left(state) == set()
    assert run(state).output == "0 cookies deleted\n"


def test_one_account(state: Path) -> None:
    assert run(state, "--account", "BOB@beta.example").output == "2 cookies deleted\n"
    assert left(state) == {"carol@beta.example"}


@pytest.mark.parametrize(("account", "status"), [("nobody", 64), ("dave@beta.example", 67)])
def test_an_account_that_is_none_of_ours(state: Path, account: str, status: int) -> None:
    assert run(state, "--account", account).exit_code == status


def test_a_configuration_without_a_puller(tmp_path: Path) -> None:
    (tmp_path / "stub.conf").write_text("[domain]\nname = 'beta.example'\n")
    result = CliRunner().invoke(cookies, ["flush", "--config", str(tmp_path / "stub.conf")])
    assert result.exit_code == 78
    assert "[http2mbox] state is missing" in result.output
