"""The key server as a process, and gpg as its client: search, receive, locate, send; start, reload and end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.waiting import wait_until

KEYSERVER = [sys.executable, "-m", "services.keyserver"]
ROOT = Path(__file__).parents[2]
NO_DATA = 2  # gpg's exit status for any failure


@dataclass
class Running:
    """A key server process, where it listens and what it logs."""

    process: subprocess.Popen[bytes]
    port: int
    keys: Path
    log: Path

    @property
    def url(self) -> str:
        return f"hkp://127.0.0.1:{self.port}"


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STUB", "GNUPG"))}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)}


@contextmanager
def running(directory: Path, program: Sequence[str] = KEYSERVER, **variables: str) -> Iterator[Running]:
    keys, log = directory / "keys", directory / "log"
    keys.mkdir(exist_ok=True)
    flags = ["--listen", "127.0.0.1:0", "--domain", "alpha.example", "--keys", str(keys)]
    with log.open("wb") as output:
        full = environment(directory) | variables
        process = subprocess.Popen([*program, *flags], stderr=output, cwd=directory, env=full)
    try:
        found = wait_until(lambda: re.search(r"listening address=127\.0\.0\.1:(\d+)", log.read_text()), 30)
        yield Running(process, int(found[1]), keys, log)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("keyserver")) as server:
        yield server


@contextmanager
def client() -> Iterator[GpgHome]:
    """A user's gpg; dirmngr asks nobody but the key server that it is told to."""
    need("dirmngr", "dirmngr")
    with gpg_home() as home:
        (home.path / "dirmngr.conf").write_text("standard-resolver\ndisable-ipv6\n")
        yield home


@pytest.fixture(scope="module")
def owner() -> Iterator[GpgHome]:
    with client() as home:
        yield home


@pytest.fixture(scope="module")
def alice(owner: GpgHome, server: Running) -> str:
    fingerprint = owner.generate("Alice Ärmel: 100% <alice@alpha.example>", expire="30d")
    owner.run("--keyserver", server.url, "--send-keys", fingerprint)
    return fingerprint


def test_send(server: Running, alice: str) -> None:
    assert [path.name for path in server.keys.iterdir()] == [f"{alice}.asc"]


@pytest.mark.parametrize("what", ["alice@alpha.example", "alpha.example", "Ärmel: 100%"])
def test_search(server: Running, alice: str, what: str) -> None:
    with client() as home:
        answers = ("--no-batch", "--command-fd", "0", "--display-charset", "utf-8")
        found = home.run(*answers, "--keyserver", server.url, "--search-keys", what, data=b"1\n")
        assert home.fingerprints() == [alice]
    lines = found.stdout.decode().splitlines()
    assert lines[0] == "(1)\tAlice Ärmel: 100% <alice@alpha.example>"
    assert f"key {alice[-16:]}" in lines[1]


def test_search_finds_nobody(server: Running) -> None:
    with client() as home:
        done = home.run("--keyserver", server.url, "--search-keys", "nobody@alpha.example", ok=[NO_DATA])
    assert b"not found on keyserver" in done.stderr


def test_receive(server: Running, alice: str) -> None:
    for handle in (alice, f"0x{alice[-16:]}"):
        with client() as home:
            home.run("--keyserver", server.url, "--recv-keys", handle)
            assert home.fingerprints() == [alice]


def test_a_short_key_id_is_not_served(server: Running, alice: str) -> None:
    with client() as home:
        home.run("--keyserver", server.url, "--recv-keys", alice[-8:], ok=[NO_DATA])
        assert home.fingerprints() == []


def test_locate_by_address(server: Running, alice: str) -> None:
    with client() as home:
        home.run(
            *("--auto-key-locate", "clear,keyserver", "--keyserver", server.url),
            *("--locate-keys", "alice@alpha.example"),
        )
        assert home.fingerprints() == [alice]


def test_refresh_brings_a_later_expiry(server: Running, owner: GpgHome, alice: str) -> None:
    def expiry(home: GpgHome) -> str:
        listing = home.run("--with-colons", "--list-keys", alice).stdout.decode()
        return next(line for line in listing.splitlines() if line.startswith("pub:")).split(":")[6]

    with client() as home:
        home.run("--keyserver", server.url, "--recv-keys", alice)
        before = expiry(home)
        owner.run("--quick-set-expire", alice, "60d")
        owner.run("--keyserver", server.url, "--send-keys", alice)
        home.run("--keyserver", server.url, "--refresh-keys")
        assert int(expiry(home)) > int(before)


def test_what_is_refused_reads_as_a_failure(server: Running, alice: str) -> None:
    with client() as home:
        stranger = home.generate("Mallory <mallory@elsewhere.example>")
        impostor = home.generate("Alice <alice@alpha.example>")
        for fingerprint in (stranger, impostor):
            home.run("--keyserver", server.url, "--send-keys", fingerprint, ok=[NO_DATA])
    assert [path.name for path in server.keys.iterdir()] == [f"{alice}.asc"]


def test_a_file_dropped_in_is_served_and_survives_a_reload(server: Running, owner: GpgHome) -> None:
    dropped = owner.generate("Dora <dora@alpha.example>")
    (server.keys / "dora.asc").write_bytes(owner.export(dropped, "--armor"))
    try:
        for _ in range(2):
            with client() as home:
                home.run("--keyserver", server.url, "--recv-keys", dropped)
            server.process.send_signal(signal.SIGHUP)
    finally:
        (server.keys / "dora.asc").unlink()


def test_plain_http_1_0_gets_a_length_and_no_chunks(server: Running, alice: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET /pks/lookup?op=get&options=mr&search=0x{alice} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}" in head.decode().lower()
    assert "transfer-encoding" not in head.decode().lower()


def test_what_is_no_http_request_is_refused_in_plain_text_and_counted(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for request, status in (
            (b"STUB\r\n\r\n", b"400"),
            (b"GET /pks/lookup?op=get HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n", b"414"),
        ):
            answer = say(server, request)
            assert answer.split()[1] == status, answer
            assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer
            assert b"<" not in answer
        page = say(server, b"GET /metrics HTTP/1.0\r\n\r\n").decode()
        assert 'keyserver_requests_total{result="refused-400"} 2\n' in page
        assert 'keyserver_requests_total{result="refused-414"} 1\n' in page


@pytest.mark.parametrize("chunks", [b"zz\r\nabc\r\n0\r\n\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"5\r\nabcdeXX0\r\n\r\n"])
def test_a_body_in_chunks_that_are_none_is_refused_and_nothing_behind_it_is_a_request(
    tmp_path: Path, chunks: bytes
) -> None:
    with running(tmp_path) as server:
        head = b"POST /pks/add HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        answer = say(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"GET /metrics HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"HTTP/1.") == 1, answer
        page = say(server, b"GET /metrics HTTP/1.0\r\n\r\n").decode()
        assert 'keyserver_requests_total{result="refused-400"} 1\n' in page
        log = server.log.read_text()
        assert "Traceback" not in log and log.count(" refused ") == 1, log


def say(server: Running, request: bytes) -> bytes:
    """Send a request, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(request)
        with client.makefile("rb") as stream:
            return stream.read()


def test_clients_that_stall_do_not_hold_the_only_thread(tmp_path: Path) -> None:
    program = "from stubmail import wsgi_worker; wsgi_worker.PatientWorker.patience = 1.0; "
    program += "from services.keyserver.__main__ import main; main()"
    with running(tmp_path, [sys.executable, "-c", program], STUBMAIL_KEYSERVER_THREADS="1") as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address) as silent, socket.create_connection(address) as body:
            silent.sendall(b"GET /pks/lookup?op=get")
            body.sendall(b"POST /pks/add HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n")
            body.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\nkeytext=")
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(b"GET /pks/lookup?op=get&search=nobody@alpha.example HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 404")


def run(
    home: Path, *arguments: str, program: Sequence[str] = KEYSERVER, **variables: str
) -> subprocess.CompletedProcess[str]:
    full = environment(home) | variables
    return subprocess.run([*program, *arguments], cwd=home, env=full, capture_output=True, text=True, timeout=60)


def flags(keys: Path, listen: str = "127.0.0.1:0") -> Sequence[str]:
    return "--listen", listen, "--domain", "alpha.example", "--keys", str(keys)


def test_check(tmp_path: Path) -> None:
    done = run(tmp_path, *flags(tmp_path), "--check")
    assert (done.returncode, done.stdout) == (0, f"alpha.example: 0 certificates in {tmp_path}, 127.0.0.1:0 is free\n")


def test_settings_from_file_and_environment(tmp_path: Path) -> None:
    (tmp_path / "stub.conf").write_text(f'[domain]\nname = "file.example"\n[keyserver]\nkeys = "{tmp_path}"\n')
    arguments = ("--config", "stub.conf", "--listen", "127.0.0.1:0", "--check")
    assert run(tmp_path, *arguments).stdout.startswith("file.example: 0 ")
    assert run(tmp_path, *arguments, STUBMAIL_DOMAIN_NAME="env.example").stdout.startswith("env.example: 0 ")
    assert run(tmp_path, *arguments, "--domain", "flag.example").stdout.startswith("flag.example: 0 ")
    variables = {"STUBMAIL_KEYSERVER_DOMAIN": "env.example"}
    assert run(tmp_path, *arguments, "--domain", "flag.example", **variables).stdout.startswith("flag.example: 0 ")


def test_no_configuration_shows_a_sample(tmp_path: Path) -> None:
    done = run(tmp_path, "--domain", "alpha.example")
    assert done.returncode == os.EX_CONFIG
    assert done.stdout.startswith("[keyserver]\n") and "there is no configuration file" in done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "[keyserver] keys is missing"),
        ('[keyserver]\nkeys = "."\n', "[domain] name is missing"),
        ('[keyserver]\nkeys = "."\ndomain = "a b"\n', "is not a domain name"),
        ('[keyserver]\nkeys = "."\ndomain = "a.example"\nsubmit_from = ["x"]\n', "submit_from"),
        ('[keyserver]\nkeys = "."\ndomain = "a.example"\nthreads = 0\n', "threads must be from 1 to 256"),
        ('[keyserver]\nkeys = "."\ndomain = "a.example"\nlisten = "nowhere"\n', "is not HOST:PORT"),
        ("keyserver = 1\n", "[keyserver] must be a section"),
        ("[", "is not valid TOML"),
    ],
)
def test_a_broken_configuration(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "stub.conf").write_text(text)
    done = run(tmp_path, "--config", "stub.conf")
    assert done.returncode == os.EX_CONFIG
    assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_no_directory(tmp_path: Path) -> None:
    done = run(tmp_path, *flags(tmp_path / "nowhere"))
    assert done.returncode == os.EX_NOINPUT
    assert "No such file or directory" in done.stderr and done.stderr.count("\n") == 1


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    program = (
        "import os; os.access = lambda *_: False; from services.keyserver.__main__ import main; main()"  # root may
    )
    done = run(tmp_path, *flags(tmp_path), program=[sys.executable, "-c", program])
    assert done.returncode == os.EX_CANTCREAT
    assert "cannot write to the keys directory" in done.stderr and done.stderr.count("\n") == 1


def test_sigterm_while_the_directory_is_read(tmp_path: Path) -> None:
    program = "import os, signal; from services.keyserver import __main__ as program; "
    program += "program.Directory.current = lambda self: os.kill(os.getpid(), signal.SIGTERM); program.main()"
    done = run(tmp_path, *flags(tmp_path), program=[sys.executable, "-c", program])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_port_in_use(tmp_path: Path, server: Running) -> None:
    done = run(tmp_path, *flags(tmp_path, f"127.0.0.1:{server.port}"))
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.splitlines()[-1] == (
        f"keyserver: cannot listen on 127.0.0.1:{server.port}: Address already in use"
    )
