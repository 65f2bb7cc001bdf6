"""What pop3d tells whoever runs it: /livez, /readyz, /metrics, and one line of the log for each session."""

import http.client
import json
import signal
import socket
from pathlib import Path

from tests.support.metrics import numbers_of
from tests.support.pop3d import Client, Pop3d, serving
from tests.support.waiting import wait_until

ONE, TWO = b"Subject: one\n\ntext\n", b"Subject: two\n\nmore\n"


def admin_port(server: Pop3d) -> int:
    return int(server.logged("pop3d.admin", "listening").rpartition(":")[2])


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metrics(port: int) -> dict[str, float]:
    """What /metrics says; also that each one is explained."""
    status, text = get(port, "/metrics")
    assert status == 200
    lines = text.splitlines()
    assert sum(line.startswith("# HELP") for line in lines) == sum(line.startswith("# TYPE") for line in lines)
    return numbers_of(text)


def test_sessions_are_counted_and_told_in_a_line_each(tmp_path: Path) -> None:
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE, TWO, admin="127.0.0.1:0") as (server, _):
        port = admin_port(server)
        before = metrics(port)
        assert before["stubmail_pop3_open_sessions"] == before['stubmail_pop3_logins_total{mechanism="APOP"}'] == 0
        with Client(server.port) as client:
            client.log_in(password=b"guess")
            client.log_in()
            wait_until(lambda: metrics(port)["stubmail_pop3_open_strangers"] == 0)
            assert metrics(port)["stubmail_pop3_open_sessions"] == 1
            for command in (b"RETR 1", b"TOP 2 0"):
                client.ask_lines(command)
            client.ask(b"DELE 1")
            client.ask(b"QUIT")
        line = server.logged("ended", "user=bob")
        assert "mechanism=USER address=127.0.0.1 tls=False reason=quit retr=1/22 top=1 dele=1/2 size=44 " in line
        wait_until(lambda: metrics(port)["stubmail_pop3_open_sessions"] == 0)
        after = metrics(port)
        for name, value in {
            'connections_total{port="pop3"}': 1,
            'logins_total{mechanism="USER"}': 1,
            'logins_refused_total{code="AUTH"}': 1,
            'messages_total{what="retrieved"}': 1,
            'messages_total{what="topped"}': 1,
            'messages_total{what="deleted"}': 1,
            "retrieved_bytes_total": 22,
            'sessions_total{end="quit"}': 1,
            'login_duration_seconds_count{outcome="accepted"}': 1,
            'login_duration_seconds_count{outcome="refused"}': 1,
        }.items():
            assert after[f"stubmail_pop3_{name}"] == value, name
        assert f"sent={after['stubmail_pop3_sent_bytes_total']:.0f} " in line


def test_it_is_ready_and_says_what_is_wrong(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, admin="127.0.0.1:0") as (server, _):
        port = admin_port(server)
        assert get(port, "/livez")[0] == 200
        status, body = get(port, "/readyz")
        assert (status, set(json.loads(body)["checks"].values())) == (200, {"ok"})
        server.users.write_text("[users.bob\n")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not-reloaded", "users.toml")
        status, body = get(port, "/readyz")
        assert status == 503
        assert "users.toml is not valid TOML" in json.loads(body)["checks"]["configuration"]


def test_while_it_drains_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "drain_seconds = 20", ONE, admin="127.0.0.1:0") as (server, _),
        Client(server.port) as client,
    ):
        port = admin_port(server)
        client.log_in()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: get(port, "/readyz")[0] == 503)
        assert get(port, "/livez")[0] == 200
        assert client.ask(b"QUIT").startswith(b"+OK")
        assert server.wait() == 0


def test_an_admin_port_in_use_stops_no_mail(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(tmp_path, "", ONE, admin=address) as (server, _), Client(server.port) as client:
            assert client.log_in().startswith(b"+OK")
            server.logged("pop3d.admin error", f"cannot listen on {address}")
