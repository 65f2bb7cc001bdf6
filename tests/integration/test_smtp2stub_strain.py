"""The receiver under strain: its memory stays small, those who behave are served, and nothing is left behind."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.gateway import ALICE, BOB, MESSAGE, Client
from tests.support.gateway_process import Gateway, gateway_process
from tests.support.waiting import wait_until

CONNECTIONS = 500
MEGABYTE = 2**20


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_process() as found:
        yield found


def memory(pid: int) -> int:
    """The most octets that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def begin(client: Client) -> None:
    """Come to the point where a message follows."""
    assert client.reply().startswith("220")
    client.send(f"EHLO strain\r\nMAIL FROM:<{ALICE}>\r\nRCPT TO:<{BOB}>\r\nDATA\r\n".encode())
    assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "250", "354"]


def test_five_hundred_connections_in_the_middle_of_a_message(gateway: Gateway) -> None:
    process = gateway.start("--role", "receiver")
    address = ("127.0.0.1", gateway.port())
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(CONNECTIONS)]
        for client in clients:
            begin(client)
            client.send(MESSAGE + b"x" * 900 + b"\r\n")
        gateway.submit(BOB)
        for client in clients[::2]:
            client.send(b".\r\n")
        assert {client.reply()[:9] for client in clients[::2]} == {"250 2.0.0"}
    wait_until(lambda: len(gateway.spool.messages()) == CONNECTIONS // 2 + 1, 30)
    with Client(address) as again:
        begin(again)
    assert memory(process.pid) < 150 * MEGABYTE
    wait_until(lambda: not [path for path in gateway.spool.incoming.iterdir() if path.name.startswith(".")], 30)
    assert "Traceback" not in gateway.text()


def test_a_hundred_megabytes_against_a_limit_of_fifty(gateway: Gateway) -> None:
    process = gateway.start("--role", "receiver")
    piece = b"\r\n".join([b"y" * 98] * 10_000) + b"\r\n"
    with Client(("127.0.0.1", gateway.port())) as client:
        begin(client)
        client.send(MESSAGE)
        for _ in range(100):
            client.send(piece)
        client.send(b".\r\n")
        assert client.reply().startswith("552 5.3.4")
        client.send(f"MAIL FROM:<{ALICE}> SIZE=104857600\r\n".encode())
        assert client.reply().startswith("552 5.3.4")
        assert client.submit().startswith("250")
    assert memory(process.pid) < 120 * MEGABYTE
    assert len(gateway.spool.messages()) == 1
    assert len(list(gateway.spool.incoming.iterdir())) == 1


def test_large_messages_at_once_do_not_add_up_in_memory(gateway: Gateway) -> None:
    process = gateway.start("--role", "receiver")
    address = ("127.0.0.1", gateway.port())
    text = MESSAGE + b"\r\n".join([b"z" * 98] * 100_000) + b"\r\n.\r\n"
    replies: list[str] = []

    def submit() -> None:
        with Client(address) as client:
            begin(client)
            client.send(text)
            replies.append(client.reply()[:9])

    threads = [threading.Thread(target=submit) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert replies == ["250 2.0.0"] * 10
    assert memory(process.pid) < 150 * MEGABYTE
    assert {len(stored.content()) for stored in gateway.spool.messages()} == {gateway.spool.messages()[0].item.size}
