"""`stubmail keys` on a real GnuPG home: what it shows, imports, and never replaces."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pysequoia
import pytest
from click.testing import CliRunner, Result

from commands.keys import keys
from services.keyserver.app import create_app
from services.keyserver.directory import Directory
from stubmail.keyring import Keyring
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.keys import make_key, public
from tests.support.ports import LOOPBACK

ZONE = """
$ORIGIN example.
$TTL 60
@ SOA ns hostmaster ( 1 3600 600 604800 60 )
@ NS ns
_stub._udp.alpha SRV 10 5 2225 post.alpha
_pks._tcp.alpha SRV 10 5 {port} keys.alpha
_post._tcp.alpha TXT "10 5 8080 post.alpha.example. post_manager"
keys.alpha A 127.0.0.1
legacy MX 10 mx.legacy
"""
ALICE = "alice@alpha.example"


@pytest.fixture(scope="module")
def template() -> Iterator[GpgHome]:
    need("gpg", "gnupg")
    with gpg_home() as home:
        home.generate("Bob <bob@beta.example>")
        yield home


@pytest.fixture
def bob(template: GpgHome) -> Iterator[GpgHome]:
    """Bob's keyring: his own key alone."""
    with gpg_home() as home:
        secret = template.run("--export-secret-keys").stdout
        home.run("--import", data=secret)
        yield home


@pytest.fixture(scope="module")
def alice() -> pysequoia.Tsk:
    return make_key(f"Alice <{ALICE}>")


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path, alice: pysequoia.Tsk) -> Iterator[Path]:
    """stub.conf with a resolver that knows alpha.example, whose key server has alice's certificate."""
    published = tmp_path / "hkp"
    published.mkdir()
    (published / "alice.pgp").write_bytes(public(alice))
    with make_server(
        LOOPBACK, 0, create_app(Directory(published, "alpha.example"), ()), handler_class=_Quiet
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with NameServer([parse_zone(ZONE.format(port=server.server_port))]) as dns:
            path = tmp_path / "stub.conf"
            resolver = f"{dns.address[0]}:{dns.address[1]}"
            path.write_text(f'[dns]\nresolver = "{resolver}"\nallow_private = true\n')
            yield path
        server.shutdown()
        thread.join()


def run(home: GpgHome, *arguments: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(keys, [*arguments, "--gnupghome", str(home.path)], input=data)


def fingerprint(tsk: pysequoia.Tsk) -> str:
    return str(tsk.extract_certificate().fingerprint).upper()


def test_correspondents_are_imported_listed_shown_and_exported(bob: GpgHome, alice: pysequoia.Tsk) -> None:
    assert run(bob, "list").output == ""
    armored = str(alice.extract_certificate()).encode()
    assert run(bob, "import", "-", data=armored).output == f"imported  {fingerprint(alice)}  {ALICE}\n"
    assert run(bob, "import", "-", data=armored).output == f"was there  {fingerprint(alice)}  {ALICE}\n"
    assert run(bob, "list").output == f"{ALICE}  {fingerprint(alice)}  usable\n"
    rows = json.loads(run(bob, "list", "--json").output)
    assert [(row["address"], row["state"]) for row in rows] == [(ALICE, "usable")]
    shown = run(bob, "show", ALICE).output
    assert fingerprint(alice) in shown and f"Alice <{ALICE}>" in shown
    assert json.loads(run(bob, "show", ALICE, "--json").output)["expires"] is not None
    exported = run(bob, "export", ALICE).output
    assert exported.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert pysequoia.Cert.from_bytes(exported.encode()).fingerprint.upper() == fingerprint(alice)


def test_ones_own_certificate_can_be_exported(bob: GpgHome) -> None:
    assert run(bob, "export", "bob@beta.example").output.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_another_key_for_the_same_address_is_named_with_both_and_not_imported(
    bob: GpgHome, alice: pysequoia.Tsk
) -> None:
    other = make_key(f"Mallory <{ALICE}>")
    run(bob, "import", "-", data=public(alice))
    result = run(bob, "import", "-", data=public(other))
    assert result.exit_code == 77
    assert fingerprint(alice) in result.output and fingerprint(other) in result.output
    assert list(Keyring(bob.path).correspondents()) == [ALICE]


def test_what_is_no_certificate_is_refused(bob: GpgHome) -> None:
    assert run(bob, "import", "-", data=b"<html>").exit_code == 69
    assert run(bob, "show", "eve@alpha.example").exit_code == 67
    assert run(bob, "show", "nobody").exit_code == 64


def test_a_key_is_fetched_from_its_domain(bob: GpgHome, alice: pysequoia.Tsk, config: Path) -> None:
    result = run(bob, "fetch", ALICE, "--config", str(config))
    assert result.output == f"imported  {fingerprint(alice)}  {ALICE}\n"
    assert ALICE in Keyring(bob.path).correspondents()


def test_a_key_is_accepted_only_under_its_fingerprint(bob: GpgHome, alice: pysequoia.Tsk, config: Path) -> None:
    result = run(bob, "accept", ALICE, "00" * 20, "--config", str(config))
    assert result.exit_code == 77
    assert fingerprint(alice) in result.output
    assert Keyring(bob.path).correspondents() == {}
    known = fingerprint(alice)
    written = f"{known[:20].lower()} {known[20:]}"
    assert run(bob, "accept", ALICE, written, "--config", str(config)).exit_code == 0
    assert ALICE in Keyring(bob.path).correspondents()


def publish(config: Path, key: pysequoia.Tsk) -> None:
    path = config.parent / "hkp" / "alice.pgp"
    path.unlink()  # what is changed in place is noticed late
    path.write_bytes(public(key))


def test_a_changed_key_is_shown_and_used_only_once_it_is_accepted(
    bob: GpgHome, alice: pysequoia.Tsk, config: Path
) -> None:
    old, other = fingerprint(alice), make_key(f"Alice <{ALICE}>")
    new = fingerprint(other)
    run(bob, "fetch", ALICE, "--config", str(config))
    same = run(bob, "refresh", "--config", str(config))
    assert (same.exit_code, same.output) == (0, f"{ALICE}  {old}  same\n")
    publish(config, other)
    changed = run(bob, "refresh", ALICE, "--json", "--config", str(config))
    assert changed.exit_code == 77
    [row] = json.loads(changed.output)
    assert (row["state"], row["fingerprint"], row["detail"]) == ("changed", old, new)
    assert run(bob, "list").output == f"{ALICE}  {old}  usable  changed: {new} is offered instead\n"
    assert json.loads(run(bob, "list", "--json").output)[0]["changed"] == new
    assert json.loads(run(bob, "show", ALICE, "--json").output)["changed"] == new
    publish(config, make_key(f"Mallory <{ALICE}>"))  # what is accepted is what was seen
    accepted = run(bob, "accept", ALICE)
    assert accepted.exit_code == 0, accepted.output
    assert accepted.output.startswith(f"accepted  {new}  {ALICE}\nreplaced  {old}  which is kept in ")
    assert run(bob, "list").output == f"{ALICE}  {new}  usable\n"
    assert run(bob, "accept", ALICE).exit_code == 65


@pytest.mark.parametrize("upper", [True, False])
def test_a_changed_key_is_accepted_by_its_fingerprint(
    bob: GpgHome, alice: pysequoia.Tsk, config: Path, upper: bool
) -> None:
    run(bob, "fetch", ALICE, "--config", str(config))
    other = make_key(f"Alice <{ALICE}>")
    publish(config, other)
    run(bob, "refresh", "--config", str(config))
    assert run(bob, "accept", "00" * 20).exit_code == 65
    new = fingerprint(other)
    assert run(bob, "accept", new if upper else new.lower()).exit_code == 0
    assert run(bob, "list").output == f"{ALICE}  {new}  usable\n"


def test_a_key_under_a_known_fingerprint_replaces_the_old_one_at_once(
    bob: GpgHome, alice: pysequoia.Tsk, config: Path
) -> None:
    run(bob, "fetch", ALICE, "--config", str(config))
    other = make_key(f"Alice <{ALICE}>")
    publish(config, other)
    wrong = run(bob, "accept", ALICE, "00" * 20, "--config", str(config))
    assert (wrong.exit_code, fingerprint(other) in wrong.output) == (77, True)
    assert run(bob, "list").output == f"{ALICE}  {fingerprint(alice)}  usable\n"
    assert run(bob, "accept", ALICE, fingerprint(other), "--config", str(config)).exit_code == 0
    assert run(bob, "list").output == f"{ALICE}  {fingerprint(other)}  usable\n"


def test_another_key_from_a_file_waits_to_be_accepted(bob: GpgHome, alice: pysequoia.Tsk) -> None:
    other = make_key(f"Alice <{ALICE}>")
    run(bob, "import", "-", data=public(alice))
    refused = run(bob, "import", "-", data=public(other))
    assert (refused.exit_code, f"stubmail keys accept {ALICE} {fingerprint(other)}" in refused.output) == (77, True)
    assert run(bob, "accept", ALICE, fingerprint(other)).exit_code == 0
    assert run(bob, "list").output == f"{ALICE}  {fingerprint(other)}  usable\n"


def test_a_disabled_key_and_what_is_offered_instead_are_both_seen(bob: GpgHome, alice: pysequoia.Tsk) -> None:
    run(bob, "import", "-", data=public(alice))
    bob.run("--import-ownertrust", data=f"{fingerprint(alice)}:131:\n".encode())
    other = make_key(f"Alice <{ALICE}>")
    run(bob, "import", "-", data=public(other))
    assert run(bob, "list").output == f"{ALICE}  -  missing  changed: {fingerprint(other)} is offered instead\n"


def test_refreshing_what_cannot_be_refreshed(bob: GpgHome, alice: pysequoia.Tsk, config: Path) -> None:
    bob.run("--import", data=public(make_key("Carol <carol@legacy.example>")))
    assert run(bob, "refresh", "--config", str(config)).output == "", "whose domain has no key server is passed over"
    assert run(bob, "refresh", ALICE, "--config", str(config)).exit_code == 67
    named = run(bob, "refresh", "carol@legacy.example", "--config", str(config))
    assert (named.exit_code, "no stub mail records" in named.output) == (75, True)
    run(bob, "import", "-", data=public(alice))
    (config.parent / "hkp" / "alice.pgp").unlink()
    assert run(bob, "refresh", "--config", str(config)).output == f"{ALICE}  {fingerprint(alice)}  unpublished\n"


@pytest.mark.parametrize(("address", "status"), [("eve@alpha.example", 67), ("carol@legacy.example", 69)])
def test_a_key_that_is_nowhere(bob: GpgHome, config: Path, address: str, status: int) -> None:
    assert run(bob, "fetch", address, "--config", str(config)).exit_code == status


def test_the_users_file_says_whose_keyring_it_is(bob: GpgHome, tmp_path: Path, alice: pysequoia.Tsk) -> None:
    users = tmp_path / "users.toml"
    users.write_text(f'[users.bob]\naddress = "bob@beta.example"\ngnupghome = "{bob.path}"\n')
    config = tmp_path / "puller.conf"
    config.write_text(f'[http2mbox]\nusers = "{users}"\nstate = "{tmp_path}"\n')
    runner = CliRunner()
    imported = runner.invoke(keys, ["import", "-", "--config", str(config)], input=public(alice))
    assert imported.exit_code == 0
    listed = runner.invoke(keys, ["list", "--config", str(config), "--account", "bob"])
    assert fingerprint(alice) in listed.output
    assert runner.invoke(keys, ["list", "--config", str(config), "--account", "eve"]).exit_code == 67
    users.write_text(users.read_text() + f'[users.carol]\naddress = "carol@beta.example"\ngnupghome = "{bob.path}"\n')
    assert runner.invoke(keys, ["show", ALICE, "--config", str(config)]).exit_code == 64
    assert runner.invoke(keys, ["list", "--config", str(config)]).output.count(fingerprint(alice)) == 2
