"""A client that fetches a Maildir one message after the other, in the clear and under TLS, and more."""

from pathlib import Path

import pytest

from tests.support.pop3d import Client, Pop3d

COUNT = 60
USERS = """
[users.bob]
address = "bob@beta.example"
password = "{PLAIN}open sesame"
maildrop = "maildir:%s"
"""


def message(number: int) -> bytes:
    return b"Subject: %d\n\n.\ntext %d\n" % (number, number) * (number % 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (path / name).mkdir(parents=True)
    for number in range(1, COUNT + 1):
        (path / "cur" / f"{number}.x:2,").write_bytes(message(number))
    return path


@pytest.mark.parametrize("tls", [False, True])
def test_messages_that_are_read_ahead_are_still_the_clients_to_delete(tmp_path: Path, path: Path, tls: bool) -> None:
    with Pop3d(tmp_path, USERS % path) as server:
        with Client(server.tls_port if tls else server.port, tls=tls) as client:
            assert client.log_in().startswith(b"+OK")
            for number in range(1, COUNT + 1):
                if number == 5:
                    assert client.ask(b"DELE 7").startswith(b"+OK")
                lines = client.ask_lines(b"RETR %d" % number)
                if number == 7:
                    assert lines == [b"-ERR The message is deleted"]
                else:
                    text = message(number).replace(b"\n.", b"\n..").split(b"\n")[:-1]
                    assert lines[1:] == text
                    assert lines[0] == b"+OK %d octets" % (len(message(number)) + message(number).count(b"\n"))
                if number == 20:
                    assert client.ask_lines(b"TOP 22 0")[1:] == [b"Subject: 22", b""]
                    assert client.ask_lines(b"RETR 3")[1] == b"Subject: 3"
            assert client.ask(b"RSET").startswith(b"+OK")
            assert client.ask_lines(b"RETR 7") == [b"+OK 0 octets"]
            assert client.ask(b"DELE 8").startswith(b"+OK")
            client.send(b"RETR 1\r\nRETR 2\r\nQUIT\r\n")
            assert client.rest().endswith(b"signing off\r\n")
        left = {file.name.partition(".")[0] for file in (path / "cur").iterdir()}
        assert left == {str(number) for number in range(1, COUNT + 1)} - {"8"}
        assert f"retr={COUNT + 3}/" in server.logged(" ended ", "reason=quit")
