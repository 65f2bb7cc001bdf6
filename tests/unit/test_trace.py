"""How mail would travel: the route that a trace names is the one that a gateway would take."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from click.testing import CliRunner

from commands.gateway import Rules
from commands.trace import Trace, follow
from commands.trace import trace as trace_command
from services.keyserver.app import create_app
from services.keyserver.directory import Directory
from stubmail.address import Address
from stubmail.discovery import Resolver
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.known_domains import DIRECTORY, KnownDomains
from stubmail.openpgp import Certificate
from stubmail.policies import parse_policies
from stubmail.routing import Policy
from stubmail.testing.authority import Fault
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
ns A 203.0.113.53
_stub._udp.beta SRV 10 5 2225 post.beta
_pks._tcp.beta SRV 10 5 {port} keys.beta
_post._tcp.beta TXT "10 5 8080 post.beta.example. post_manager"
post.beta A 127.0.0.1
keys.beta A 127.0.0.1
legacy MX 10 mx.legacy
"""


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@dataclass
class World:
    """beta.example: its DNS, and its key server with what lies in ``keys``."""

    dns: NameServer
    keys: Path
    resolver: Resolver

    def trace(self, address: str, gnupghome: Path | None = None, rules: Rules | None = None) -> Trace:
        return follow(Address.parse(address), self.resolver, HttpClient(self.resolver, timeout=10), gnupghome, rules)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    app = create_app(Directory(tmp_path, "beta.example"), ())
    with make_server(LOOPBACK, 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with NameServer([parse_zone(ZONE.format(port=server.server_port))]) as dns:
            yield World(dns, tmp_path, Resolver(dns.address, allow_private=True))
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gpg() -> Iterator[GpgHome]:
    need("gpg", "gnupg")
    with gpg_home() as home:
        home.generate("Bob <bob@beta.example>")
        yield home


def test_stub_mail_with_the_key_of_the_domain(world: World, gpg: GpgHome) -> None:
    (world.keys / "bob.pgp").write_bytes(gpg.export("bob@beta.example"))
    fingerprint = gpg.fingerprints("bob@beta.example")[0]
    trace = world.trace("bob@beta.example")
    assert trace.route == "stub" and all(step.ok for step in trace.steps)
    assert [step.what for step in trace.steps] == ["policy", "dns", "address", "address", "key"]
    assert fingerprint in trace.steps[-1].text


def test_the_base_address_when_there_is_no_key_for_the_subaddress(world: World, gpg: GpgHome) -> None:
    (world.keys / "bob.pgp").write_bytes(gpg.export("bob@beta.example"))
    trace = world.trace("bob+lists@beta.example")
    assert trace.route == "stub"
    assert [(step.what, step.ok) for step in trace.steps[-2:]] == [("key", False), ("key", True)]


def test_no_key_defers(world: World) -> None:
    trace = world.trace("bob@beta.example")
    assert trace.route == "deferred" and "no key for bob@beta.example" in trace.steps[-1].text


def test_the_keyring_comes_first(world: World, gpg: GpgHome) -> None:
    trace = world.trace("bob@beta.example", gpg.path)
    assert trace.route == "stub" and trace.steps[-1].what == "keyring"


def test_a_key_that_has_changed_is_named_beside_the_one_in_use(world: World) -> None:
    bob, other = (Certificate.parse(public(make_key("Bob <bob@beta.example>"))) for _ in range(2))
    with gpg_home() as home:
        keyring = Keyring(home.path)
        keyring.add(bob)
        keyring.changes.note(Address.parse("bob@beta.example"), other, 0)
        trace = world.trace("bob+lists@beta.example", home.path)
    assert (trace.route, trace.steps[-2].what, trace.steps[-1].what) == ("stub", "keyring", "changed")
    assert bob.fingerprint in trace.steps[-2].text
    assert other.fingerprint in trace.steps[-1].text


def test_the_keyring_may_be_an_account_s(world: World, gpg: GpgHome, tmp_path: Path) -> None:
    users, config = tmp_path / "users.toml", tmp_path / "stub.conf"
    users.write_text(f'[users.alice]\naddress = "alice@alpha.example"\ngnupghome = "{gpg.path}"\n')
    host, port = world.dns.address
    config.write_text(
        f'[dns]\nresolver = "{host}:{port}"\nallow_private = true\n'
        f'[smtp2stub]\nusers = "{users}"\nspool = "{tmp_path}"\n'
    )
    done = CliRunner().invoke(trace_command, ["bob@beta.example", "--config", str(config), "--account", "alice"])
    assert done.exit_code == 0, done.output
    assert gpg.fingerprints("bob@beta.example")[0] in done.output
    assert CliRunner().invoke(trace_command, ["b@c.de", "--config", str(config), "--account", "eve"]).exit_code == 67


def test_a_domain_without_stub_mail(world: World) -> None:
    trace = world.trace("carol@legacy.example")
    assert trace.route == "legacy" and len(trace.steps) == 2


@pytest.mark.parametrize(
    ("policies", "known", "smarthost", "route", "words"),
    [
        ("legacy.example require", (), True, "refused", "nothing else will do"),
        ("carol@legacy.example never", ("legacy.example",), True, "legacy", "never, by carol@legacy.example in line 1"),
        ("beta.example never", ("legacy.example",), True, "deferred", "stubmail domains forget legacy.example"),
        ("", (), False, "refused", "no smarthost"),
    ],
)
def test_policies_memory_and_smarthost_decide(
    world: World, policies: str, known: tuple[str, ...], smarthost: bool, route: str, words: str
) -> None:
    rules = Rules(parse_policies(policies, Policy.PREFER, Path("f")), frozenset(known), smarthost)
    trace = world.trace("carol@legacy.example", rules=rules)
    assert trace.route == route
    assert words in trace.steps[-1].text


def test_the_gateway_s_own_settings_decide(world: World, tmp_path: Path) -> None:
    spool, policies, config = tmp_path / "spool", tmp_path / "policies", tmp_path / "stub.conf"
    KnownDomains(spool / DIRECTORY).remember("legacy.example")
    policies.write_text("carol@legacy.example require\n")
    host, port = world.dns.address
    config.write_text(
        f'[dns]\nresolver = "{host}:{port}"\n[smtp2stub]\nusers = "x"\nspool = "{spool}"\npolicies = "{policies}"\n'
    )

    def status(address: str) -> tuple[int, str]:
        done = CliRunner().invoke(trace_command, [address, "--config", str(config), "--json"])
        return done.exit_code, json.loads(done.stdout)["route"]

    assert status("carol@legacy.example") == (75, "deferred")
    KnownDomains(spool / DIRECTORY).forget("legacy.example")
    assert status("carol@legacy.example") == (69, "refused")
    assert status("dora@legacy.example") == (69, "refused"), "there is no smarthost"
    config.write_text(config.read_text() + 'smarthost = "127.0.0.1"\n')
    assert status("dora@legacy.example") == (0, "legacy")
    policies.write_text("carol@legacy.example sometimes\n")
    done = CliRunner().invoke(trace_command, ["dora@legacy.example", "--config", str(config)])
    assert (done.exit_code, f"{policies} line 1: 'sometimes'" in done.output) == (78, True)


@pytest.mark.parametrize("name", ["_stub._udp.legacy.example", "_pks._tcp.beta.example", "_post._tcp.beta.example"])
def test_dns_that_fails_defers(world: World, name: str) -> None:
    world.dns.authority.faults[name] = Fault.SERVFAIL
    trace = world.trace(f"x@{name.split('.', 2)[2]}")
    assert trace.route == "deferred" and "SERVFAIL" in trace.steps[-1].text


def test_a_key_server_that_is_down_defers(world: World) -> None:
    world.dns.authority.serve([parse_zone(ZONE.format(port=1))])
    trace = world.trace("bob@beta.example")
    assert trace.route == "deferred" and not trace.steps[-1].ok
