"""Files that are no mbox, or hardly one: refused unchanged, or one message; no crash, no octet lost."""

from pathlib import Path

import pytest

from tests.support.pop3d import FROM, Client, serving

NOT_MBOX = [
    b"not an mbox\n",
    b"\0" * 4096,
    b">From a\n\ntext\n",
    b"from a\n",
    b"\xff\xfe\n\nFrom a\n\nx\n",
]
ONE_MESSAGE = [
    b"From ",
    b"\r\nFrom a\n",  # an empty line before it does not count
    b"From \0\xff\n",
    FROM + b"no header, no end",
    FROM + b"text\nFrom b\nno empty line before it\n",
    FROM + b"Subject: x\n\n\0\0\0\n" + b">From b\n" * 1000,
    FROM + bytes(range(256)) * 64,
]


@pytest.mark.parametrize("content", NOT_MBOX)
def test_what_does_not_begin_with_a_from_line_is_refused(tmp_path: Path, content: bytes) -> None:
    with serving(tmp_path) as (server, path):
        path.write_bytes(content)
        with Client(server.port) as client:
            assert client.log_in() == b"-ERR [SYS/PERM] The maildrop cannot be opened"
            assert "does not begin with a From line" in server.logged("failed", "user=bob")
            assert client.ask(b"CAPA").startswith(b"+OK"), "the session goes on"
        assert path.read_bytes() == content
        path.write_bytes(FROM + b"Subject: mended\n\n")
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 1 message ")


@pytest.mark.parametrize("content", ONE_MESSAGE)
def test_what_begins_with_one_and_has_no_other_is_one_message(tmp_path: Path, content: bytes) -> None:
    with serving(tmp_path) as (server, path):
        path.write_bytes(content)
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 1 message ")
            octets = int(client.ask(b"LIST 1").split()[2])
            client.send(b"RETR 1\r\nQUIT\r\n")
            head, _, rest = client.rest().partition(b"\r\n")
            assert head.startswith(b"+OK")
            message, end, goodbye = rest.rpartition(b".\r\n+OK")
            assert end and goodbye.endswith(b"\r\n")
            assert len(message.replace(b"\r\n..", b"\r\n.")) == octets
        assert path.read_bytes() == content
