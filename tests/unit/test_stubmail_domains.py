"""`stubmail domains`: what the gateway remembers, and what it is to forget."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands.domains import domains
from stubmail.known_domains import DIRECTORY, KnownDomains
from tests.support.gateway import NOW, Clock


@pytest.fixture
def known(tmp_path: Path) -> KnownDomains:
    known = KnownDomains(tmp_path / DIRECTORY, clock=Clock())
    known.remember("beta.example")
    known.remember("xn--bcher-kva.example")
    return known


def call(spool: Path, *arguments: str) -> Result:
    return CliRunner().invoke(domains, [*arguments, "--spool", str(spool)])


def test_they_are_listed(known: KnownDomains, tmp_path: Path) -> None:
    assert call(tmp_path, "list").output == "2027-01-15  beta.example\n2027-01-15  xn--bcher-kva.example\n"
    rows = json.loads(call(tmp_path, "list", "--json").output)
    assert rows[0] == {"domain": "beta.example", "seen": int(NOW)}


def test_they_are_forgotten_under_any_spelling(known: KnownDomains, tmp_path: Path) -> None:
    done = call(tmp_path, "forget", "BETA.example.", "bücher.example", "beta.example")
    assert done.output == "beta.example  forgotten\nxn--bcher-kva.example  forgotten\n"
    assert list(known) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["forget", "eta.example"], 65, "not remembered: eta.example"),
        (["forget", "../../etc"], 64, "not a domain name"),
        (["forget"], 64, "DOMAIN"),
    ],
)
def test_mistakes(known: KnownDomains, tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    done = call(tmp_path, *arguments)
    assert (done.exit_code, words in done.output) == (status, True)
    assert len(list(known)) == 2


def test_the_spool_is_the_configured_one(known: KnownDomains, tmp_path: Path) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(f'[smtp2stub]\nspool = "{tmp_path}"\n')
    assert "beta.example" in CliRunner().invoke(domains, ["list", "--config", str(config)]).output
    config.write_text('[smtp2stub]\nspool = "/nonexistent"\n')
    assert CliRunner().invoke(domains, ["list", "--config", str(config)]).exit_code == 66
