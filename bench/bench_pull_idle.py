"""What it costs to learn that there is no mail: a round over many senders' domains, and a look every second.

The second is next to mpop, which asks Dovecot over POP3 every second. Octets are those of IP packets on this machine,
so that nothing else should talk meanwhile; both directions count, and DNS answers are remembered.
"""

import asyncio
import contextlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pysequoia
from sqlalchemy import insert

from bench import pop3_house
from bench.bench_pull import mpop_config
from bench.pop3_house import DOVECOT, Pop3Server
from bench.puller_house import BOB, PullerHouse, puller_house, run
from bench.store_house import Server
from bench.table import ROUNDS, Result, show
from services.http2mbox.accounts import Accounts
from services.http2mbox.checks import Checks
from services.http2mbox.counters import Counters
from services.http2mbox.pull import Limits
from services.http2mbox.puller import Puller
from services.http2mbox.settings import Http2mbox
from services.http2mbox.turns import Turns
from services.http2mbox.visits import Visits
from services.post_manager.cookie_ids import CookieIds
from services.post_manager.storage.keys import store_key
from services.post_manager.storage.schema import cookies
from stubmail.cookies import Seen
from stubmail.discovery import Resolver

DOMAINS = 500
WATCHED = 5.0  # seconds of a puller that looks every second
POLLS = 5
LARGE = 10_000  # messages that are in the mailbox all the time, as they are in a mailbox of POP3's
SETTLE_SECONDS = 4.0  # until the puller has asked in full, once


def octets() -> int:
    """Octets of IP packets that this machine has received so far; on loopback each is received once."""
    names, values = (
        line.split() for line in Path("/proc/net/netstat").read_text().splitlines() if line.startswith("IpExt:")
    )
    return int(values[names.index("InOctets")])


def _processor(server: Server) -> float:
    """Processor seconds of all threads of all its processes, to the nanosecond."""
    total = 0
    for pid in server.processes():
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _befriend(house: PullerHouse) -> None:
    """Give bob a correspondent in each domain but alpha.example, where alice is one."""
    people = (pysequoia.Tsk.generate(f"Friend <friend@d{number}.example>") for number in range(1, DOMAINS))
    keys = b"".join(bytes(one.extract_certificate()) for one in people)
    subprocess.run(
        ["gpg", "--homedir", house.keys, "--batch", "--quiet", "--import"], input=keys, check=True, capture_output=True
    )


def _seed(house: PullerHouse, accounts: Accounts, resolver: Resolver) -> None:
    """Give bob what he has after listing each store once: a cookie, and the knowledge of what was there."""
    (account,) = accounts
    contacts, now = account.contacts(), int(time.time())
    rows = []
    with house.store.open() as database:
        ids = CookieIds(store_key(database))
        for domain, senders in contacts.domains.items():
            offer = resolver.discover(domain)
            assert offer is not None
            cookie, key, url = ids.new(), random.randbytes(32), offer.stores[0].url
            rows.append({"id": cookie, "secret": key, "fingerprint": house.bob.fingerprint, "used": now})
            account.jar.put(url, cookie, key)
            account.jar.saw(url, Seen(0, senders.digest, now + 3600.0))
        with database.write() as connection:
            connection.execute(insert(cookies), rows)


def _connect(*_: object) -> NoReturn:
    raise SystemExit("a store was to be asked over HTTP, which no check called for")


async def _rounds(accounts: Accounts, resolver: Resolver) -> list[tuple[float, int]]:
    limits, counters, rng = Limits(2**20), Counters(), random.Random(1)
    workers, lookups, checks = Turns(32), Turns(32), Checks()
    await checks.open()
    visits = Visits(resolver, checks, _connect, limits, counters, rng=rng)
    puller = Puller(visits, limits, workers, counters, rng=rng, lookups=lookups)
    puller.set_accounts(accounts)
    found = []
    for _ in range(ROUNDS + 1):
        before, started = octets(), time.perf_counter()
        puller.start_round()
        await puller.finish()
        found.append((time.perf_counter() - started, octets() - before))
    checks.close()
    for pool in (workers, lookups):
        pool.shutdown()
    if puller.report.checks != DOMAINS * (ROUNDS + 1):
        raise SystemExit(f"{puller.report.checks} checks were answered in {ROUNDS + 1} rounds")
    return found[1:]  # the first one has to ask DNS


def _many() -> None:
    with puller_house(DOMAINS) as house:
        _befriend(house)
        root = house.config().parent
        accounts = Accounts(Http2mbox(root / "users.toml", root / "state", admin_listen=""), [BOB])
        accounts.reload()
        resolver = Resolver(house.dns, allow_private=True)
        try:
            _seed(house, accounts, resolver)
            seconds, sizes = zip(*asyncio.run(_rounds(accounts, resolver)), strict=True)
        finally:
            accounts.close()
    title = f"A round over {DOMAINS} senders' domains, where nothing waits"
    show(title, "s", {"limit": Result("limit", (1.0,)), "round": Result("round", seconds)}, "limit", "less than 1 s")
    kilobytes = tuple(size / 1e3 for size in sizes)
    results = {"limit": Result("limit", (100.0,)), "round": Result("round", kilobytes)}
    show("Its traffic, IP and UDP headers included", "KB", results, "limit", "less than 100 KB")


def _watch(house: PullerHouse) -> tuple[float, float]:
    """Return processor seconds and octets a second of a puller that looks every second, and of the store."""
    config = house.config()
    argv = [sys.executable, "-m", "services.http2mbox", "--config", str(config), "--interval", "1"]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        time.sleep(SETTLE_SECONDS)
        both = (Server(process, 0), house.server)
        cpu, size, started = sum(map(_processor, both)), octets(), time.monotonic()
        time.sleep(WATCHED)
        took = time.monotonic() - started
        return (sum(map(_processor, both)) - cpu) / took, (octets() - size) / took
    finally:
        process.terminate()
        process.wait(30)


def _poll(root: Path, server: Pop3Server) -> tuple[float, float]:
    """Return processor seconds and octets for one look of mpop's, and of Dovecot."""
    config = mpop_config(root, server)
    config.write_text(re.sub("keep on", "keep on\nonly_new on", config.read_text()))
    run(["mpop", f"--file={config}", "--quiet", "u0"])  # from here on nothing is new
    before, size, own = _processor(server.server), octets(), 0.0
    for _ in range(POLLS):
        own += run(["mpop", f"--file={config}", "--quiet", "u0"]).cpu
    return (own + _processor(server.server) - before) / POLLS, (octets() - size) / POLLS


def _near_push() -> None:
    looks = {}
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        template = Path(directory) / "mbox"
        reason = pop3_house.missing() or ("" if shutil.which("mpop") else "mpop not installed: apt-get install mpop")
        if reason:
            print(f"\nThe peer is left out: {reason}.")
        else:
            for messages in (0, LARGE):
                pop3_house.write_mbox(template, messages, 1_000)
                with pop3_house.servers(template, 1) as servers:
                    looks[f"mpop, Dovecot, {messages:,} messages"] = _poll(Path(directory), servers[DOVECOT])
                (Path(directory) / "uidls").unlink(missing_ok=True)
    with puller_house() as house:
        looks["puller, --interval 1"] = _watch(house)
    peer = next(iter(looks))
    title = "A look for new mail every second"
    cpu = {name: Result(name, (seconds * 1e3,)) for name, (seconds, _) in looks.items()}
    show(f"{title}: processor time of client and server", "ms a second", cpu, peer)
    traffic = {name: Result(name, (size,)) for name, (_, size) in looks.items()}
    show(f"{title}: traffic", "octets a second", traffic, peer, "one datagram each way")


def main() -> None:
    """Measure and show."""
    _near_push()
    _many()


if __name__ == "__main__":
    main()
