"""Floods of datagrams at full speed: an honest client is still answered, memory stays flat, and the counters tell."""

import contextlib
import os
import random
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stubmail.datagram import CHECK_SIZE, Waiting, answer_from_wire, check_to_wire, token_request_to_wire
from tests.support.flooder import flood
from tests.support.ports import LOOPBACK
from tests.support.store import Person, Talker
from tests.support.store_process import StoreProcess, descendants, store_process
from tests.support.waiting import wait_until

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
SEED = 7
SECONDS = 2.0  # of each flood at least
ASKED = 20  # times by the honest client meanwhile
GROWTH = 4 * 2**20  # octets
LARGEST = 65_507  # octets of a datagram over IPv4

Make = Callable[[random.Random, bytes], bytes]

FLOODS: dict[str, tuple[str, Make]] = {
    "garbage": ("malformed", lambda dice, _: dice.randbytes(dice.randrange(200))),
    "nearly": ("malformed", lambda dice, _: b"STUB\x01" + bytes((dice.randrange(6, 256), 0, 0)) + dice.randbytes(64)),
    "oversized": ("malformed", lambda dice, _: b"STUB\x01\x01\0\0".ljust(LARGEST, dice.randbytes(1))),
    "unknown": ("unknown", lambda dice, _: check_to_wire(dice.randbytes(16), dice.randbytes(16), bytes(32))),
    "forged": ("forged", lambda dice, known: check_to_wire(known, dice.randbytes(16), bytes(32))),
    "tokens": ("tokens", lambda dice, _: token_request_to_wire(dice.randbytes(16))),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with store_process(tmp_path_factory.mktemp("flooded"), [ALICE]) as store:
        yield store


@pytest.fixture(scope="module")
def bob(store: StoreProcess) -> Talker:
    bob = store.talker(BOB)
    store.talker(ALICE).keep(BOB, b"x")
    return bob


def notifier_of(store: StoreProcess) -> int:
    [pid] = [pid for pid in descendants(store.pid) if b"notifier" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def memory_of(pid: int) -> int:
    """Octets of memory that a process has of its own."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def counted(store: StoreProcess) -> dict[str, int]:
    """What the notifier has counted, by outcome."""
    metrics = store.metrics()
    outcomes = ("answered", "unknown", "malformed", "forged", "unsent", "dropped")
    numbers = {name: int(metrics[f'stubmail_store_checks_total{{outcome="{name}"}}']) for name in outcomes}
    return numbers | {"tokens": int(metrics["stubmail_store_tokens_total"])}


def ask(store: StoreProcess, talker: Talker) -> Waiting:
    """Ask, again and again until an answer comes: the kernel drops what is too much, whoever sent it."""
    nonce, key = secrets.token_bytes(16), bytes.fromhex(talker.session["cookie_key"])
    question = check_to_wire(bytes.fromhex(talker.session["cookie"]), nonce, key)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((LOOPBACK, store.udp))

        def answer() -> bytes | None:
            with contextlib.suppress(OSError):
                client.send(question)
            try:
                data = client.recv(CHECK_SIZE)
            except BlockingIOError:
                return None
            return data if nonce in data else None  # else it comes late, for who had this port before

        found = answer_from_wire(wait_until(answer, 30, "an answer"), nonce, key)
    assert isinstance(found, Waiting)
    return found


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_keeps_nobody_from_an_answer(kind: str, store: StoreProcess, bob: Talker, tmp_path: Path) -> None:
    outcome, make = FLOODS[kind]
    dice, known, pid = random.Random(SEED), bytes.fromhex(bob.session["cookie"]), notifier_of(store)
    datagrams = [make(dice, known) for _ in range(20 if kind == "oversized" else 2_000)]
    assert all(len(datagram) <= CHECK_SIZE for datagram in datagrams) or outcome == "malformed"
    memory, before = memory_of(pid), counted(store)
    began = time.monotonic()
    with flood(store.udp, datagrams, tmp_path / "datagrams") as flooding:
        answered = 0
        while answered < ASKED or time.monotonic() - began < SECONDS:
            assert ask(store, bob).count == 1
            answered += 1
    ask(store, bob)  # what came before has been dealt with
    most = {name: number - before[name] for name, number in counted(store).items()}
    print(f"{kind}: {flooding.sent} sent, {answered} answered, {most}, seed {SEED}")
    assert flooding.sent > 5_000
    assert 500 < most[outcome] <= flooding.sent
    assert most["answered"] >= answered
    assert most["dropped"] == 0
    assert memory_of(pid) - memory < GROWTH
    assert notifier_of(store) == pid


def test_a_flood_costs_the_log_nothing(store: StoreProcess, bob: Talker, tmp_path: Path) -> None:
    """Nobody fills a disk with datagrams."""
    size = store.log.stat().st_size
    datagrams = [os.urandom(72) for _ in range(100)]
    with flood(store.udp, datagrams, tmp_path / "datagrams"):
        ask(store, bob)
        before = counted(store)["malformed"]
        wait_until(lambda: counted(store)["malformed"] > before + 5_000, 30, "many more")
    assert store.log.stat().st_size == size
