"""`stubmail demo`: the whole system on loopback, and mail that crosses it, checked octet by octet."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

import click

from stubmail import cli
from stubmail.address import AddressError, parse_domain
from stubmail.errors import Exit
from stubmail.spool import write_durably
from stubmail.testing.domain import DomainNetwork
from stubmail.testing.network import PASSWORD, Network, NetworkError
from stubmail.testing.walk import Step, WalkError, walk

_USERS = ("alice", "bob")  # at the first and the second domain; further domains have one of each name in turn


@click.command("demo", epilog="Examples: stubmail demo; stubmail demo --keep --json demo.json")
@click.option("--domains", default="alpha.example,beta.example", show_default=True, help="Two or more, below .example.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Keep everything here; default: a temporary one."
)
@click.option("--keep", is_flag=True, help="Stay up afterwards and print how to connect a mail program.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write hosts, ports, accounts and pids here."
)
@cli.one_sentence
def demo(domains: str, directory: Path | None, keep: bool, json_file: Path | None) -> None:
    """Start two stub mail domains and a legacy one on loopback, send mail between them, and check what arrives.

    Exits 0 when every message arrived as it was sent, octet by octet, and 1 when not. Needs no root and no Docker.
    """
    names = _parse_domains(domains)
    root = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="stub"))
    network = Network(root, {name: [_USERS[at % 2]] for at, name in enumerate(names)}, interval=0.2)
    stopped = _stop_on_signals()
    started = time.monotonic()
    try:
        _start(network, names, started)
        ok = _walk(network, started)
        if json_file is not None:
            _write_json(network, json_file)
        click.echo(f"{'passed' if ok else 'FAILED'} after {time.monotonic() - started:.1f} s")
        if keep and ok:
            _stay(network, json_file, stopped)
    finally:
        network.stop()
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if ok else 1)


def _parse_domains(text: str) -> list[str]:
    try:
        names = [parse_domain(name.strip()) for name in text.split(",")]
    except AddressError as error:
        raise Exit(os.EX_USAGE, f"--domains: {error}") from error
    if len(names) < 2 or len(set(names)) < len(names) or "legacy.example" in names:
        raise Exit(os.EX_USAGE, "--domains wants two or more different domains other than legacy.example")
    if not all(name.endswith(".example") and name.count(".") == 1 for name in names):
        raise Exit(os.EX_USAGE, "--domains: each must be NAME.example, so that no real domain is played (RFC 6761)")
    return names


def _stop_on_signals() -> threading.Event:
    """Have SIGTERM end a demo that stays, or break off one that runs."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set() or threading.current_thread() is not threading.main_thread():
            return
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    return stopped


def _start(network: Network, names: list[str], started: float) -> None:
    click.echo(f"{', '.join(names)} and legacy.example on loopback, in {network.root}")
    try:
        network.start()
    except NetworkError as error:
        raise Exit(os.EX_SOFTWARE, str(error)) from error
    for name, domain in network.domains.items():
        for user, certificate in domain.certificates.items():
            _say(Step("keys", f"{user}@{name} {certificate.fingerprint}", time.monotonic() - started))
    count = len(network.pids)
    _say(Step("start", f"{count} services, each its own process, answer on their ports", time.monotonic() - started))


def _walk(network: Network, started: float) -> bool:
    try:
        for step in walk(network, started):
            _say(step)
    except WalkError as error:
        click.echo(f"FAILED: {error}\n{network.log_tail()}", err=True)
        return False
    return True


def _say(step: Step) -> None:
    click.echo(f"{step.seconds:6.2f} s  {step.what:<9} {step.text}")


def _accounts(domain: DomainNetwork) -> dict[str, dict[str, str]]:
    site = domain.site
    return {
        user: {
            "address": f"{user}@{site.domain}",
            "password": PASSWORD,
            "gnupghome": str(site.keys / user),
            "mbox": str(domain.mbox(user)),
        }
        for user in domain.users
    }


def _write_json(network: Network, path: Path) -> None:
    def at(domain: DomainNetwork, service: str) -> str:
        host, port = domain.place(service)
        return f"{host}:{port}"

    data = {
        "dns": f"{network.dns[0]}:{network.dns[1]}",
        "domains": {
            name: {
                **{service: at(domain, service) for service in ("smtp", "pop3", "pop3s", "udp", "hkp")},
                "store": f"http://{at(domain, 'store')}/post_manager",
                "accounts": _accounts(domain),
            }
            for name, domain in network.domains.items()
        },
        "legacy": {"mbox": str(network.legacy_mbox), "smtp": f"{network.legacy[0]}:{network.legacy[1]}"},
        "processes": dict(network.pids),
    }
    write_durably(path.absolute(), json.dumps(data, indent=2).encode() + b"\n")


def _stay(network: Network, json_file: Path | None, stopped: threading.Event) -> None:
    """Tell how to connect, and stay until SIGTERM or Ctrl-C; say so when a process is started again."""

    def restarted(name: str, pid: int) -> None:
        if json_file is not None:
            _write_json(network, json_file)
        click.echo(f"{name} died and was started again, pid {pid}")

    network.on_start = restarted
    for name, domain in network.domains.items():
        ports = domain.ports
        click.echo(
            f"\n{name}: user {' '.join(domain.users)}, password {PASSWORD}\n"
            f"  outgoing (SMTP)  127.0.0.1 port {ports['smtp']}, plain password, no TLS\n"
            f"  incoming (POP3)  127.0.0.1 port {ports['pop3']}, or over TLS port {ports['pop3s']} (self-signed)\n"
            f"  try: curl -u {domain.users[0]}:{PASSWORD} pop3://127.0.0.1:{ports['pop3']}/1"
        )
    click.echo("\nCtrl-C ends it.", nl=True)
    sys.stdout.flush()
    try:
        stopped.wait()
    except KeyboardInterrupt:
        click.echo("")
