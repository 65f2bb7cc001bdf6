"""How many posts a second are pulled, verified, decrypted and durable in the mbox, next to mpop, which does but fetch.

mpop, the fastest fetcher of mail, gets the same messages from Dovecot over POP3. Both are measured from their start to
their end. BENCH_MESSAGES=NUMBER: of a backlog that is pulled once; with the default, 20,000, a minute is enough, and
250,000 take 1 GB of disk in the store and in the mbox.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import pop3_house
from bench.pop3_house import DOVECOT, Pop3Server
from bench.pop3_load import PASSWORD
from bench.puller_house import PullerHouse, Run, puller_house, run
from bench.table import Result, interleave, show

MESSAGES, SIZE = 10_000, 4_096
BACKLOG = int(os.environ.get("BENCH_MESSAGES", "20000"))
LIMIT = 150  # MiB
_MPOP, _PULLER = "mpop, Dovecot", "puller"


def messages(mbox: Path) -> Iterator[bytes]:
    """Yield what is in an mbox of pop3_house as the gateway would get it; its texts hold no From line."""
    with mbox.open("rb") as file:
        lines: list[bytes] = []
        for line in file:
            if line.startswith(b"From alice@") and lines:
                yield b"".join(lines[:-1])
                lines = []
            elif not line.startswith(b"From alice@"):
                lines.append(line[:-1] + b"\r\n")
        yield b"".join(lines[:-1])


class _Puller:
    """Pulls what has been stored just before; remembers how its runs went."""

    def __init__(self, house: PullerHouse) -> None:
        self._house = house
        self.runs: list[Run] = []

    def measure(self, template: Path, number: int) -> float:
        """Return posts a second."""
        self._house.fill(messages(template))
        done = self._house.pull(config := self._house.config())
        if f"delivered={number} held=0" not in done.output:
            raise SystemExit(f"{number} posts were to be delivered: {done.output[-1000:]}")
        self.runs.append(done)
        shutil.rmtree(config.parent)
        return number / done.seconds


def mpop_config(root: Path, server: Pop3Server) -> Path:
    """Write what mpop needs to fetch everything that u0 has, and leave it there."""
    (root / "password").write_text(PASSWORD)
    config = root / "mpoprc"
    config.write_text(
        f"account u0\nhost 127.0.0.1\nport {server.port}\nuser u0\npasswordeval cat {root}/password\nauth user\n"
        f"tls off\nkeep on\nuidls_file {root}/uidls\ndelivery mbox {root}/mbox\n"
    )
    config.chmod(0o600)
    return config


def _fetch(root: Path, config: Path, template: Path) -> float:
    for name in ("uidls", "mbox"):
        (root / name).unlink(missing_ok=True)
    done = run(["mpop", f"--file={config}", "--quiet", "u0"])
    if (root / "mbox").stat().st_size < template.stat().st_size:
        raise SystemExit(f"mpop has not fetched everything: {done.output}")
    return MESSAGES / done.seconds


def _beside_mpop(root: Path, puller: _Puller) -> Result:
    template = root / "template"
    pop3_house.write_mbox(template, MESSAGES, SIZE)
    with contextlib.ExitStack() as stack:
        subjects = {_PULLER: lambda: puller.measure(template, MESSAGES)}
        reason = pop3_house.missing() or ("" if shutil.which("mpop") else "mpop not installed: apt-get install mpop")
        if reason:
            print(f"\nThe peer is left out: {reason}.")
        else:
            server = stack.enter_context(pop3_house.servers(template, 1))[DOVECOT]
            config = mpop_config(root, server)
            _fetch(root, config, template)  # to get warm: the index is made
            subjects = {_MPOP: lambda: _fetch(root, config, template)} | subjects
        results = interleave(subjects)
    title = f"{MESSAGES:,} posts of {SIZE} octets, until they are durable in the mbox"
    show(title, "messages/s", results, next(iter(subjects)), "as many as mpop at least")
    return results[_PULLER]


def main() -> None:
    """Measure and show."""
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory, puller_house() as house:
        puller, template = _Puller(house), Path(directory) / "backlog"
        few = _beside_mpop(Path(directory), puller)
        first = puller.runs[-1]
        pop3_house.write_mbox(template, BACKLOG, SIZE)
        many = Result(f"{BACKLOG:,} posts", (puller.measure(template, BACKLOG),))
        results = {"few": Result(f"{MESSAGES:,} posts", few.values), "many": many}
        show("A backlog of posts", "messages/s", results, "few", "0.8 at least")
        memory = {
            "limit": Result("limit", (LIMIT,)),
            "few": Result(f"{MESSAGES:,} posts", (first.peak / 2**20,)),
            "many": Result(f"{BACKLOG:,} posts", (puller.runs[-1].peak / 2**20,)),
        }
        show("The puller's memory at its peak", "MiB", memory, "limit", "less than the limit")
        print(f"\n(processor time: {first.cpu / MESSAGES * 1e6:.0f} µs a message)")


if __name__ == "__main__":
    main()
