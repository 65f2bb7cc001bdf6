"""How many messages a second the gateway takes, signs, encrypts and has in the store, next to Postfix with gpg.

The peer is Postfix with a filter that is started for each message and calls gpg (bench/gpg_filter.py), as many at a
time as there are cores. What it has done counts when Postfix has it queued again; ours when the store has committed it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import gateway_house, gpg_filter, postfix
from bench.gateway_house import SENDER, SENT, Domains
from bench.ports import free_port
from bench.table import interleave, show
from stubmail.address import Address
from stubmail.keyring import Keyring

SIZE = 5_000  # octets
CONNECTIONS = 50
MESSAGES = 2_000  # a round
FILTERED = 100  # a round, of the peer
WAIT_SECONDS = 120.0
TO = "bob@beta.example"
NOBODY = "nobody"  # pipe(8) runs nothing as root
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable  # one that nobody may run
TARGET = "at least 30 times as many, or 400/s on 2 cores"


def _through(domains: Domains) -> float:
    before, started = domains.metric(SENT), time.monotonic()
    postfix.submit(domains.port, MESSAGES, SIZE, CONNECTIONS, to=TO)
    domains.wait_for(before + MESSAGES, WAIT_SECONDS)
    return MESSAGES / (time.monotonic() - started)


def _filtered(port: int, queue: Path) -> float:
    before, started = _held(queue), time.monotonic()
    postfix.submit(port, FILTERED, SIZE, CONNECTIONS, to=TO)
    while _held(queue) < before + FILTERED:
        if time.monotonic() - started > WAIT_SECONDS:
            raise SystemExit(f"{_held(queue) - before} of {FILTERED} messages came through the filter")
        time.sleep(0.02)
    return FILTERED / (time.monotonic() - started)


def _held(queue: Path) -> int:
    return sum(path.is_file() for path in (queue / "hold").rglob("*"))


@contextlib.contextmanager
def _peer() -> Iterator[tuple[int, Path]]:
    """Run Postfix with the filter; yields its port and its queue, where what was filtered is held."""
    with tempfile.TemporaryDirectory(prefix="sm") as directory:
        home, script, back = Path(directory) / "g", Path(directory) / "gpg_filter.py", free_port()
        shutil.copy(gpg_filter.__file__, script)
        Path(directory).chmod(0o755)
        keyring = Keyring(home)
        for address in (SENDER, TO):
            keyring.generate(Address.parse(address), "")
        for path in (home, *home.rglob("*")):
            shutil.chown(path, NOBODY)
        argv = f"{PYTHON} {script} {home} {back} ${{sender}} ${{recipient}}"
        services = (
            f"filter unix - n n - {os.cpu_count()} pipe flags=q user={NOBODY} argv={argv}\n"
            f"127.0.0.1:{back} inet n - n - - smtpd -o content_filter= "
            "-o smtpd_client_restrictions=check_client_access,static:HOLD\n"
        )
        settings = ("content_filter = filter:dummy", "relay_domains = static:ALL")
        try:
            with postfix.postfix(settings, services) as found:
                yield found
        finally:
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def main() -> None:
    """Measure and show."""
    if reason := postfix.missing():
        print(f"\nLeft out: {reason}.")
        return
    with _peer() as (port, queue), gateway_house.domains(["bob"]) as domains:
        _through(domains)  # to get warm: bob's key is fetched, the session opened
        subjects = {"Postfix and gpg": lambda: _filtered(port, queue), "gateway": lambda: _through(domains)}
        title = f"Accepted, signed, encrypted and stored, {SIZE} octets, {CONNECTIONS} at a time"
        show(title, "messages/s", interleave(subjects), "Postfix and gpg", TARGET)


if __name__ == "__main__":
    main()
