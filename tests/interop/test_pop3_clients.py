"""pop3d and the clients that people use: mpop, fetchmail, getmail and curl, in the clear, with STLS, and with POP3S."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gpg import need
from tests.support.pop3d import CERT, Pop3d, mbox, serving

MESSAGES = [
    b"From: alice@alpha.example\nTo: bob@beta.example\nMessage-ID: <1@x>\nSubject: one\n\n.hidden\n..\n.\nend\n",
    b"From: alice@alpha.example\nTo: bob@beta.example\nMessage-ID: <2@x>\nSubject: caf\xc3\xa9\n\nna\xefve \xff\n",
    b"From: alice@alpha.example\nTo: bob@beta.example\nMessage-ID: <3@x>\nSubject: long\n\n" + b"x" * 5000 + b"\n",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Pop3d, Path]]:
    with serving(tmp_path, "", *MESSAGES) as running:
        yield running


def run(*command: str | Path, home: Path, given: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a client; it must end well."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "FETCHMAILHOME": str(home)}
    result = subprocess.run(
        list(map(str, command)), input=given.encode(), env=environ, capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 0, (result.stdout, result.stderr)
    return result


def bodies(delivered: bytes) -> list[bytes]:
    """The bodies of messages that a client delivered one after the other, whatever headers it has added."""
    return [
        part.partition(b"\n\n")[2].rstrip(b"\n") for part in delivered.replace(b"\r\n", b"\n").split(b"==end==\n")[:-1]
    ]


EXPECTED = [message.partition(b"\n\n")[2].rstrip(b"\n") for message in MESSAGES]


@pytest.fixture
def mda(tmp_path: Path) -> Path:
    """A delivery program that appends what it gets to ``delivered``."""
    script = tmp_path / "mda"
    script.write_text(f"#!/bin/sh\n{{ cat; echo ==end==; }} >> {tmp_path / 'delivered'}\n")
    script.chmod(0o755)
    return script


def security(server: Pop3d, kind: str) -> tuple[int, bool, bool]:
    """The port, whether TLS is wanted, and whether by STLS."""
    return (server.tls_port if kind == "pop3s" else server.port), kind != "clear", kind == "stls"


KINDS = ["clear", "stls", "pop3s"]


@pytest.mark.parametrize("kind", KINDS)
def test_mpop_fetches_once_and_deletes(server: tuple[Pop3d, Path], tmp_path: Path, mda: Path, kind: str) -> None:
    need("mpop", "mpop")
    running, path = server
    port, tls, starttls = security(running, kind)
    config = tmp_path / "mpoprc"
    text = f"""account default
host 127.0.0.1
port {port}
user bob
password "open sesame"
auth user
delivery mda {mda}
uidls_file {tmp_path / "uidls"}
tls {"on" if tls else "off"}
tls_starttls {"on" if starttls else "off"}
tls_trust_file {CERT}
"""
    config.write_text(text + "keep on\n")
    config.chmod(0o600)
    for _ in range(2):
        run("mpop", "--quiet", "--file", config, home=tmp_path)
        assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED
    assert path.read_bytes() == mbox(*MESSAGES)
    config.write_text(text + "keep off\n")
    run("mpop", "--quiet", "--file", config, home=tmp_path)
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED
    assert path.read_bytes() == b""


@pytest.mark.parametrize("mechanism", ["plain", "login", "apop", "cram-md5", "scram-sha-256", "on"])
def test_mpop_authenticates(server: tuple[Pop3d, Path], tmp_path: Path, mda: Path, mechanism: str) -> None:
    need("mpop", "mpop")
    running, _ = server
    run(
        "mpop", "--quiet", "--host=127.0.0.1", f"--port={running.tls_port}", "--user=bob", f"--auth={mechanism}",
        "--passwordeval=echo open sesame", f"--delivery=mda,{mda}", f"--uidls-file={tmp_path / 'uidls'}", "--tls=on",
        "--tls-starttls=off", f"--tls-trust-file={CERT}", home=tmp_path,
    )  # fmt: skip
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_fetchmail_fetches_once_and_deletes(server: tuple[Pop3d, Path], tmp_path: Path, mda: Path, kind: str) -> None:
    need("fetchmail", "fetchmail")
    running, path = server
    port, tls, starttls = security(running, kind)
    config = tmp_path / "fetchmailrc"
    ssl = "sslproto ''" if not tls else "sslproto 'TLS1.2+'" if starttls else "ssl"
    text = (
        f"poll localhost protocol pop3 port {port} uidl timeout 20\n"
        f'  user "bob" password "open sesame" {ssl} sslcertck sslcertfile "{CERT}" mda "{mda}" '
    )
    config.write_text(text + "keep\n")
    config.chmod(0o600)
    command = ("fetchmail", "--silent", "-f", config, "--idfile", tmp_path / "ids", "--pidfile", tmp_path / "pid")
    run(*command, home=tmp_path)
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED
    assert path.read_bytes() == mbox(*MESSAGES)
    config.write_text(text + "nokeep\n")
    (tmp_path / "ids").unlink()
    run(*command, home=tmp_path)
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED * 2
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_curl_lists_retrieves_and_deletes(server: tuple[Pop3d, Path], tmp_path: Path, kind: str) -> None:
    need("curl", "curl")
    running, path = server
    port, tls, _ = security(running, kind)
    url = f"{'pop3s' if kind == 'pop3s' else 'pop3'}://localhost:{port}/"
    options = ["--silent", "--show-error", "--cacert", CERT, "--user", "bob:open sesame"]
    options += ["--ssl-reqd"] if tls else []
    sizes = [len(message) + message.count(b"\n") for message in MESSAGES]
    listing = b"".join(b"%d %d\r\n" % item for item in enumerate(sizes, 1))
    assert run("curl", *options, url, home=tmp_path).stdout == listing
    for number, message in enumerate(MESSAGES, 1):
        assert run("curl", *options, f"{url}{number}", home=tmp_path).stdout == message.replace(b"\n", b"\r\n")
    assert run("curl", *options, "--request", "TOP 1 0", url, home=tmp_path).stdout.endswith(b"Subject: one\r\n\r\n")
    run("curl", *options, "--request", "DELE 2", "--head", url, home=tmp_path)
    assert path.read_bytes() == mbox(MESSAGES[0], MESSAGES[2])


@pytest.mark.parametrize("kind", KINDS)
def test_getmail_fetches_once_and_deletes(server: tuple[Pop3d, Path], tmp_path: Path, mda: Path, kind: str) -> None:
    need("getmail", "getmail6")
    running, path = server
    port, tls, starttls = security(running, kind)
    text = f"""[retriever]
type = {"SimplePOP3SSLRetriever" if tls and not starttls else "SimplePOP3Retriever"}
server = localhost
port = {port}
username = bob
password = open sesame
{f"ca_certs = {CERT}" if tls else ""}
{"use_starttls = yes" if starttls else ""}
[destination]
type = MDA_external
path = {mda}
unixfrom = false
allow_root_commands = true
[options]
verbose = 0
read_all = false
delivered_to = false
received = false
"""
    config = tmp_path / "getmailrc"
    config.write_text(text)
    command = ("getmail", "--getmaildir", tmp_path, "--rcfile", config)

    for _ in range(2):
        run(*command, home=tmp_path)
        assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED
    assert path.read_bytes() == mbox(*MESSAGES)
    config.write_text(text.replace("read_all = false", "read_all = true\ndelete = true"))
    run(*command, home=tmp_path)
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED * 2
    assert path.read_bytes() == b""


@pytest.mark.parametrize("options", [(), ("--login-options", "AUTH=PLAIN"), ("--login-options", "AUTH=+APOP"),
                                     ("--login-options", "AUTH=CRAM-MD5"), ("--sasl-ir",)])  # fmt: skip
def test_curl_logs_in(server: tuple[Pop3d, Path], tmp_path: Path, options: tuple[str, ...]) -> None:
    need("curl", "curl")
    running, _ = server
    url = f"pop3://127.0.0.1:{running.port}/1"
    body = run("curl", "--silent", "--show-error", "--user", "bob:open sesame", *options, url, home=tmp_path).stdout
    assert body == MESSAGES[0].replace(b"\n", b"\r\n")


def test_fetchmail_logs_in_with_apop(server: tuple[Pop3d, Path], tmp_path: Path, mda: Path) -> None:
    need("fetchmail", "fetchmail")
    running, _ = server
    config = tmp_path / "fetchmailrc"
    config.write_text(
        f'poll localhost protocol apop port {running.port} timeout 20 user "bob" password "open sesame" '
        f"sslproto '' mda \"{mda}\" keep\n"
    )
    config.chmod(0o600)
    run("fetchmail", "--silent", "-f", config, "--pidfile", tmp_path / "pid", home=tmp_path)
    assert bodies((tmp_path / "delivered").read_bytes()) == EXPECTED
    running.logged("ended", "mechanism=APOP")
