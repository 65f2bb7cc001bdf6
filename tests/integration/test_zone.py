"""The example zone and the commands about DNS, as their users run them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from stubmail.discovery import Resolver
from tests.support.gpg import need

ROOT = Path(__file__).parents[2]
ZONE = ROOT / "dns/zone.example"
NAMESERVER = [sys.executable, "-m", "stubmail.testing.nameserver"]
STUBMAIL = [sys.executable, "-m", "commands"]


def run(command: Sequence[str | Path], home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STUB")}
    environ = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=60)


def served(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `stubmail` while a name server answers for the example zone."""
    return run([*NAMESERVER, "--zone", ZONE, "--", *STUBMAIL, *arguments], home, **variables)


def test_named_checkzone_accepts_the_example_zone() -> None:
    need("named-checkzone", "bind9-utils")
    done = subprocess.run(["named-checkzone", "-i", "local", "-k", "fail", "-n", "fail", "example", ZONE], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("domain", ["alpha.example", "beta.example"])
def test_check_of_a_domain_that_is_right(tmp_path: Path, domain: str) -> None:
    done = served(tmp_path, "dns", "check", domain, "--allow-private", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["status"]) == (0, "ok")
    assert {finding["status"] for finding in report["records"] + report["hosts"]} == {"ok"}


def test_check_of_a_domain_that_publishes_nothing(tmp_path: Path) -> None:
    done = served(tmp_path, "dns", "check", "legacy.example", "--host", "mail.legacy.example")
    assert done.returncode == 1
    assert "publish: _pks._tcp.legacy.example. SRV 10 5 11371 mail.legacy.example." in done.stdout


def test_documentation_addresses_are_wrong_for_the_public(tmp_path: Path) -> None:
    assert served(tmp_path, "dns", "check", "alpha.example").returncode == 1
    assert served(tmp_path, "dns", "check", "alpha.example", STUBMAIL_DNS_ALLOW_PRIVATE="true").returncode == 0


def test_check_when_dns_fails(tmp_path: Path) -> None:
    done = served(tmp_path, "dns", "check", "elsewhere.test")
    assert done.returncode == os.EX_TEMPFAIL
    assert "failed" in done.stdout and "REFUSED" in done.stdout


def test_trace(tmp_path: Path) -> None:
    done = served(tmp_path, "trace", "carol@legacy.example", "--json")
    assert (done.returncode, json.loads(done.stdout)["route"]) == (0, "legacy")
    done = served(tmp_path, "trace", "carol@elsewhere.test")
    assert done.returncode == os.EX_TEMPFAIL and "route   deferred" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["trace", "no address"], os.EX_USAGE, "'no address' is not a mail address"),
        (["trace", "a@b.example", "--resolver", "dns.example"], os.EX_CONFIG, "must be an IP address"),
        (["dns", "check", "a..b"], os.EX_USAGE, "is not a domain name"),
        (["dns", "check", "a.example", "--host", "1.2.3.4"], os.EX_USAGE, "a host name is needed"),
        (["dns", "render", "a.example", "--host", "h.example", "--prefix", "/x"], os.EX_USAGE, "is not a URL path"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], status: int, sentence: str) -> None:
    done = run([*STUBMAIL, *arguments], tmp_path)
    assert done.returncode == status
    assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_render_makes_lines_for_a_zone_file(tmp_path: Path) -> None:
    need("named-checkzone", "bind9-utils")
    done = run([*STUBMAIL, "dns", "render", "new.example", "--host", "mail.new.example"], tmp_path)
    zone = tmp_path / "zone"
    zone.write_text(f"$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nmail.new A 192.0.2.2\n{done.stdout}")
    assert run(["named-checkzone", "example", zone], tmp_path).returncode == 0


def test_the_name_server_reads_its_zone_again_and_ends(tmp_path: Path) -> None:
    zone = tmp_path / "zone"
    zone.write_text(ZONE.read_text())
    command = [*NAMESERVER, "--zone", zone, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        host, _, port = process.stdout.readline().removeprefix("listening on ").strip().rpartition(":")
        resolver = Resolver((host, int(port)), allow_private=True)
        assert resolver.addresses("post.alpha.example") == ["203.0.113.11"]
        for text, expected, word in (
            (ZONE.read_text().replace("203.0.113.11", "203.0.113.99"), "203.0.113.99", "reloaded"),
            ("nonsense", "203.0.113.99", "failed"),
        ):
            zone.write_text(text)
            process.send_signal(signal.SIGHUP)
            assert word in process.stderr.readline()
            resolver.flush()
            assert resolver.addresses("post.alpha.example") == [expected]
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [(None, os.EX_OSERR, "No such file"), ("nonsense", os.EX_DATAERR, "not a zone")],
)
def test_a_zone_that_cannot_be_served(tmp_path: Path, text: str | None, status: int, sentence: str) -> None:
    zone = tmp_path / "zone"
    if text is not None:
        zone.write_text(text)
    done = run([*NAMESERVER, "--zone", zone], tmp_path)
    assert done.returncode == status
    assert sentence in done.stderr and done.stderr.count("\n") == 1
