"""`stubmail dns`: what a domain publishes so that stub mail reaches it, rendered or checked from one model."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import click

from commands.resolver import resolver_options
from stubmail import cli
from stubmail.address import AddressError, parse_domain
from stubmail.discovery import Resolver
from stubmail.dns import publication
from stubmail.dns.checker import Report, Status, check
from stubmail.dns.publication import Service
from stubmail.dns.reach import Reached, reach
from stubmail.dns.records import CHECK_PORT, HTTPS_PORT, KEYS_PORT, RecordError
from stubmail.errors import Exit, TemporaryError

_PORT = click.IntRange(1, 65535)
_EXIT = {Status.OK: 0, Status.MISSING: 1, Status.WRONG: 1, Status.FAILED: os.EX_TEMPFAIL}


@click.group("dns")
def dns() -> None:
    """Render the records to publish, and check what is published."""


@dns.command(
    epilog="Examples: stubmail dns render example.org --host mail.example.org; "
    "stubmail dns render example.org --host mail.example.org --store-port 8080 --no-udp --format table"
)
@click.argument("domain")
@click.option("--host", required=True, help="The host that runs the services.")
@click.option("--keys-host", help="The key server's host, if it is another one.")
@click.option("--store-port", type=_PORT, default=HTTPS_PORT, show_default=True, help="443 means https, others http.")
@click.option("--prefix", default=publication.PREFIX, show_default=True, help="The path of the store's URL.")
@click.option("--keys-port", type=_PORT, default=KEYS_PORT, show_default=True, help="The key server's port.")
@click.option("--check-port", type=_PORT, default=CHECK_PORT, show_default=True, help="The UDP check's port.")
@click.option("--no-udp", is_flag=True, help="Say that there is no UDP check.")
@click.option("--format", "form", type=click.Choice(["zone", "table", "json"]), default="zone", show_default=True)
@cli.one_sentence
def render(
    domain: str,
    host: str,
    keys_host: str | None,
    store_port: int,
    prefix: str,
    keys_port: int,
    check_port: int,
    no_udp: bool,
    form: str,
) -> None:
    """Print the records that DOMAIN has to publish: for a zone file, for a provider's form, or for a program."""
    service = Service(host, keys_host or host, "" if no_udp else host, store_port, keys_port, check_port, prefix)
    published = _entries(_domain(domain), service)
    if form == "json":
        click.echo(json.dumps(publication.to_json(published), indent=2))
    else:
        click.echo({"zone": publication.format_zone, "table": publication.format_table}[form](published), nl=False)


@dns.command(
    "check",
    epilog="Examples: stubmail dns check example.org; "
    "stubmail dns check example.org --host mail.example.org --connect --json",
)
@click.argument("domain")
@click.option("--host", help="The records have to lead to this host, store on port 443 and the other ports as usual.")
@click.option("--connect", is_flag=True, help="Try as well whether the services answer.")
@click.option("--json", "as_json", is_flag=True, help="Print findings for a program.")
@cli.one_sentence
@resolver_options
def check_records(
    domain: str, config: Path, resolver: Resolver, host: str | None, connect: bool, as_json: bool
) -> None:
    """Look up what DOMAIN publishes, say what is missing or wrong, and what to publish instead.

    Exits 0 when all is well, 1 when something is missing or wrong, 75 when DNS did not answer.
    """
    name = _domain(domain)
    service = Service(host, host, host) if host else None
    if service:
        _entries(name, service)
    report = check(resolver, name, service)
    reached = _reach(resolver, name) if connect else []
    if as_json:
        click.echo(json.dumps(_to_json(report, reached), indent=2))
    else:
        _print(report, reached)
    sys.exit(_EXIT[report.status] or int(any(result.problem for result in reached)))


def _domain(text: str) -> str:
    try:
        return parse_domain(text)
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error


def _entries(domain: str, service: Service) -> tuple[publication.Entry, ...]:
    try:
        return publication.entries(domain, service)
    except RecordError as error:
        raise Exit(os.EX_USAGE, str(error)) from error


def _reach(resolver: Resolver, domain: str) -> list[Reached]:
    try:
        offer = resolver.discover(domain)
    except TemporaryError:
        return []  # the report says why
    return reach(resolver, offer) if offer else []


def _to_json(report: Report, reached: list[Reached]) -> dict[str, object]:
    records = [
        dataclasses.asdict(finding) | {"publish": finding.publish and finding.publish.format()}
        for finding in report.records
    ]
    return {
        "domain": report.domain,
        "status": report.status,
        "records": records,
        "hosts": [dataclasses.asdict(host) for host in report.hosts],
        "reached": [dataclasses.asdict(result) for result in reached],
    }


def _print(report: Report, reached: list[Reached]) -> None:
    width = max(len(finding.name) for finding in report.records)
    for finding in report.records:
        details = "; ".join(filter(None, (", ".join(finding.found), finding.note)))
        click.echo(f"{finding.status:<8} {finding.name:<{width}} {finding.kind:<4} {details}")
        if finding.publish:
            click.echo(f"{'':<8} publish: {finding.publish.format()}")
    for host in report.hosts:
        click.echo(f"{host.status:<8} {host.host:<{width}} addr {', '.join(host.addresses) or host.note}")
    for result in reached:
        place = f"{result.host} port {result.port} at {result.address}"
        click.echo(f"{'wrong' if result.problem else 'ok':<8} {place}: {result.what} {result.problem or 'answers'}")
