"""pop3d under TLS: POP3S, STLS, what is injected before it, and a certificate that changes."""

import base64
import contextlib
import hashlib
import poplib
import shutil
import signal
import socket
import ssl
from pathlib import Path

import pytest

from stubmail.passwords import scram_password
from tests.support.pop3d import CERT, TLS, Client, mbox, serving
from tests.support.scram import ScramClient

ONE = b"Subject: one\n\n" + b"x" * 70 + b"\n"


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERT)


def test_pop3s_with_poplib(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, ONE * 1000) as (server, path):
        client = poplib.POP3_SSL("localhost", server.tls_port, timeout=20, context=context())
        client.user("bob")
        client.pass_("open sesame")
        assert client.retr(2)[0] == b"+OK %d octets" % (client.stat()[1] - len(ONE) - 3)
        client.dele(2)
        client.quit()
        assert path.read_bytes() == mbox(ONE)
        assert "tls=True" in server.logged("ended", "reason=quit")


def test_stls_with_poplib(tmp_path: Path) -> None:
    with serving(tmp_path, "allow_plain_loopback = false", ONE) as (server, _):
        client = poplib.POP3("localhost", server.port, timeout=20)
        assert "USER" not in client.capa()
        client.stls(context())
        assert "USER" in client.capa()
        assert "STLS" not in client.capa()
        client.user("bob")
        client.pass_("open sesame")
        assert client.stat()[0] == 1
        client.quit()


def test_what_is_injected_behind_stls_is_never_taken_for_the_clients_words(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, path), Client(server.port) as client:
        client.send(b"STLS\r\nUSER bob\r\nPASS open sesame\r\nDELE 1\r\nQUIT\r\n")
        assert client.rest() == b"-ERR Nothing may follow STLS before its reply\r\n"
        client.socket.close()
        server.logged("ended", "octets behind STLS")
        assert path.read_bytes() == mbox(ONE)


def test_what_is_injected_after_the_reply_to_stls_breaks_the_handshake(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        assert client.ask(b"STLS") == b"+OK begin TLS"
        client.send(b"USER bob\r\nPASS open sesame\r\n")
        assert b"+OK" not in client.rest()
        server.logged("refused", "TLS")
        with Client(server.port) as other:
            assert other.log_in().startswith(b"+OK")


def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, "login_seconds = 0.3") as (server, _):
        with socket.create_connection(("127.0.0.1", server.tls_port), 20) as silent:
            assert silent.recv(100) == b""
        with Client(server.port) as client:
            assert client.ask(b"STLS").startswith(b"+OK")
            assert client.rest() == b""
        server.logged("ended", "not logged in in time", "tls=True")


def test_clear_text_on_the_tls_port_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, _), socket.create_connection(("127.0.0.1", server.tls_port), 20) as client:
        client.sendall(b"CAPA\r\n")
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(100):
                data += more
        assert b"+OK" not in data
        server.logged("refused", "TLS")


def test_what_comes_behind_the_end_of_tls_takes_no_memory(tmp_path: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with (
        serving(tmp_path, "failure_delay_seconds = 60\nfailure_delay_longest = 60", ONE) as (server, _),
        socket.create_connection(("127.0.0.1", server.tls_port), 20) as client,
    ):
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.sendall(outgoing.read())
        while not shaken_hands(tls):
            incoming.write(client.recv(65536))
        tls.write(b"USER bob\r\nPASS wrong\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        client.sendall(outgoing.read())
        before = server.peak_memory()
        for _ in range(100):
            client.sendall(b"x" * (1 << 20))
        assert server.peak_memory() - before < 20 << 20


def shaken_hands(tls: ssl.SSLObject) -> bool:
    """Go on with that; returns whether it is done."""
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
        return True
    return False


def test_a_new_certificate_is_used_after_sighup_and_sessions_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.tls_port, tls=True) as old:
        old.log_in()
        shutil.copy(TLS / "renewed.cert.pem", tmp_path / "cert.pem")
        shutil.copy(TLS / "renewed.key.pem", tmp_path / "key.pem")
        server.process.send_signal(signal.SIGHUP)
        server.logged("- reloaded", "cert.pem")
        der = ssl.PEM_cert_to_DER_cert((TLS / "renewed.cert.pem").read_text())
        renewed = ssl.create_default_context(cafile=TLS / "renewed.cert.pem")
        with (
            socket.create_connection(("127.0.0.1", server.tls_port), 20) as plain,
            renewed.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            assert client.getpeercert(binary_form=True) == der
        assert old.ask(b"STAT").startswith(b"+OK 1")
        assert old.ask(b"QUIT").startswith(b"+OK")


def test_a_certificate_that_does_not_fit_leaves_the_last_one_in_use(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, _):
        shutil.copy(TLS / "renewed.key.pem", tmp_path / "key.pem")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not-reloaded", "key values mismatch")
        with Client(server.tls_port, tls=True) as client:
            assert client.log_in().startswith(b"+OK")


def scram(client: Client, mechanism: bytes, one: ScramClient) -> bytes:
    """Log in, and return what is said at the end."""
    challenge = client.ask(b"AUTH " + mechanism + b" " + base64.b64encode(one.first))
    answer = client.ask(base64.b64encode(one.final(base64.b64decode(challenge.removeprefix(b"+ ")))))
    if not answer.startswith(b"+ "):
        return answer
    assert base64.b64decode(answer[2:]) == one.expected
    return client.ask(b"")


@pytest.mark.parametrize("password", ["{PLAIN}open sesame", scram_password("open sesame")], ids=["PLAIN", "SCRAM"])
def test_scram_binds_the_channel(tmp_path: Path, password: str) -> None:
    der = ssl.PEM_cert_to_DER_cert(CERT.read_text())
    end_point = hashlib.sha256(der).digest()
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE, password=password) as (server, _):
        with Client(server.tls_port, tls=True) as client:
            assert any(line.startswith(b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 ") for line in client.ask_lines(b"CAPA"))
            header = b"p=tls-server-end-point,,"
            one = ScramClient("bob", "open sesame", header, b"another's")
            assert scram(client, b"SCRAM-SHA-256-PLUS", one).startswith(b"-ERR")
            one = ScramClient("bob", "guess", header, end_point)
            assert scram(client, b"SCRAM-SHA-256-PLUS", one).startswith(b"-ERR [AUTH]")
            one = ScramClient("nobody", "guess", header, end_point)
            assert scram(client, b"SCRAM-SHA-256-PLUS", one).startswith(b"-ERR [AUTH]")
            one = ScramClient("bob", "open sesame", b"p=tls-server-end-point,a=nobody,", end_point)
            assert scram(client, b"SCRAM-SHA-256-PLUS", one) == b"-ERR [AUTH] Authentication failed"
            one = ScramClient("bob", "open sesame", b"p=tls-server-end-point,a=Bob@beta.example,", end_point)
            assert scram(client, b"SCRAM-SHA-256-PLUS", one).startswith(b"+OK")
        server.logged("ended", "mechanism=SCRAM-SHA-256-PLUS")


def test_scram_under_tls_1_2_and_without_tls(tmp_path: Path) -> None:
    older = context()
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(tmp_path, "allow_plain_loopback = false", ONE) as (server, _):
        with Client(server.port) as client:
            assert client.ask(b"STLS").startswith(b"+OK")
            client.socket = older.wrap_socket(client.socket, server_hostname="localhost")
            bound = client.socket.get_channel_binding("tls-unique")
            one = ScramClient("bob", "open sesame", b"p=tls-unique,,", bound)
            assert scram(client, b"SCRAM-SHA-256-PLUS", one).startswith(b"+OK")
            assert client.ask(b"QUIT").startswith(b"+OK")
        with Client(server.port) as client:
            assert scram(client, b"SCRAM-SHA-256", ScramClient("bob", "open sesame")).startswith(b"+OK")
