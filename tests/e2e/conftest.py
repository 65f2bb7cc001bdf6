"""The compose network, brought up for a module of tests that drive it from outside, and removed with all it kept."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "stubmail-demo"
ALL_FILES = ("docker-compose.yml", "compose.scale.yaml")  # one project: what is left of either goes


@dataclass(frozen=True)
class Compose:
    """`docker compose` in this repository, and mail programs pointed at its published ports."""

    smtp: dict[str, int]
    pop3: dict[str, int]
    files: tuple[str, ...] = ("docker-compose.yml",)

    def __call__(self, *arguments: str, timeout: float = 600, check: bool = True) -> str:
        """Run `docker compose …`; the output of a failure is the test's."""
        files = [option for file in self.files for option in ("--file", file)]
        command = ["docker", "compose", *files, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            pytest.fail(f"docker compose {' '.join(arguments)}: {done.stderr[-4000:]}{done.stdout[-2000:]}")
        return done.stdout

    def client(self, *command: str) -> str:
        """Run a program in a client container inside the network."""
        return self("run", "--rm", "-T", "client", *command)

    def submit(self, sender: str, to: str, subject: str, body: str = "Hello.") -> subprocess.CompletedProcess[str]:
        """Send a message with swaks."""
        user, _, domain = sender.partition("@")
        account = ["--auth", "PLAIN", "--auth-user", user, "--auth-password", PASSWORD]
        message = ["--from", sender, "--to", to, "--header", f"Subject: {subject}", "--body", body]
        server = ["--server", f"127.0.0.1:{self.smtp[domain]}", "--timeout", "20"]
        return subprocess.run(["swaks", *server, *account, *message], capture_output=True, text=True, timeout=60)

    def maildrop(self, address: str) -> list[str]:
        """Fetch all messages with curl, over POP3."""
        user, _, domain = address.partition("@")
        url = f"pop3://127.0.0.1:{self.pop3[domain]}/"
        curl = ["curl", "--silent", "--show-error", "--max-time", "20", "--user", f"{user}:{PASSWORD}"]
        listing = subprocess.run([*curl, url], capture_output=True, text=True, timeout=60)
        if listing.returncode:
            return []  # the server is away, or the maildrop is locked for a moment: the caller asks again
        numbers = [line.split()[0] for line in listing.stdout.splitlines() if line.strip()]
        messages = []
        for number in numbers:
            done = subprocess.run([*curl, url + number], capture_output=True, timeout=60)
            if done.returncode == 0:
                messages.append(done.stdout.decode("utf-8", "replace"))
        return messages


def needed(program: str, package: str) -> None:
    """Skip the test when a foreign program is missing; in CI that is a failure."""
    if shutil.which(program) is None:
        text = f"{program} is missing: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)


def until(what: str, happened: Callable[[], bool], seconds: float = 60) -> None:
    """Poll a condition until it holds; fail when its time is over."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"{seconds:.0f} s passed, but not this: {what}")
        time.sleep(0.2)


@contextlib.contextmanager
def network(*files: str, log: str) -> Iterator[Compose]:
    """Build, start and in the end remove the network that these compose files describe; ``log``: where its logs go."""
    needed("docker", "docker.io docker-compose")
    needed("swaks", "swaks")
    needed("curl", "curl")
    smtp = {"alpha.example": 1025, "beta.example": 2025}
    run = Compose(smtp, {"alpha.example": 1110, "beta.example": 2110}, files)
    replace(run, files=ALL_FILES)("--profile", "client", "down", "--volumes", "--remove-orphans")
    run("--profile", "client", "build", timeout=900)
    try:
        run("up", "--wait", timeout=300)
        yield run
    finally:
        logs = run("logs", "--no-color", "--tail", "2000", check=False)
        (ROOT / log).write_text(logs)
        run("--profile", "client", "down", "--volumes", "--remove-orphans", check=False)


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """Two domains with a store each; gone before another module brings up its own."""
    with network(*ALL_FILES[:1], log="compose.log") as run:
        yield run
