"""`stubmail domains`: the gateway's memory of domains that have offered stub mail, and how to have one forgotten."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from commands import gateway
from commands.accounts import config_option
from stubmail import cli
from stubmail.address import AddressError, parse_domain
from stubmail.errors import Exit
from stubmail.known_domains import DIRECTORY, KnownDomains

_EPILOG = """\b
Examples:
  stubmail domains list
  stubmail domains forget beta.example && stubmail queue retry --all
"""


@click.group("domains", epilog=_EPILOG)
def domains() -> None:
    """See which domains have offered stub mail; forget those that have given it up.

    When the DNS records of one of them vanish, mail for it waits, since somebody may have taken them away in order to
    read it. Once the domain is forgotten its mail goes the way that the policy says.
    """


@domains.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@gateway.spool_option
@config_option
@cli.one_sentence
def list_(spool: Path | None, config: Path, as_json: bool) -> None:
    """List domains and when each was last seen to offer stub mail, to the day."""
    known = sorted(_known(spool, config))
    if as_json:
        click.echo(json.dumps([{"domain": domain, "seen": int(seen)} for domain, seen in known], indent=1))
        return
    for domain, seen in known:
        click.echo(f"{datetime.fromtimestamp(seen, UTC):%Y-%m-%d}  {domain}")


@domains.command("forget")
@click.argument("names", metavar="DOMAIN...", nargs=-1, required=True)
@gateway.spool_option
@config_option
@cli.one_sentence
def forget(names: tuple[str, ...], spool: Path | None, config: Path) -> None:
    """Have domains forgotten. While their DNS records are there, the next message has them remembered again."""
    known = _known(spool, config)
    try:
        wanted = list(dict.fromkeys(parse_domain(name) for name in names))
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
    unknown = []
    for domain in wanted:
        if known.forget(domain):
            click.echo(f"{domain}  forgotten")
        else:
            unknown.append(domain)
    if unknown:
        raise Exit(os.EX_DATAERR, f"not remembered: {', '.join(unknown)}")


def _known(spool: Path | None, config: Path) -> KnownDomains:
    root = spool or gateway.spool(config)
    if not root.is_dir():
        raise Exit(os.EX_NOINPUT, f"there is no gateway's spool {root}")
    return KnownDomains(root / DIRECTORY)
