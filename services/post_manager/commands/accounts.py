"""`post_manager accounts`: shows and changes who may store posts, and has the running store read that again."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import click

from services.post_manager import service
from services.post_manager.commands.accounts_file import AccountsFile
from services.post_manager.commands.section import pass_section
from services.post_manager.policy import DAY, LIMITS, Account, load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage import gauges
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.errors import StorageError
from stubmail import cli, pidfile
from stubmail.address import Address, AddressError
from stubmail.errors import Exit
from stubmail.openpgp import Certificate, OpenPGPError

Usage = dict[str, tuple[int, int]]  # posts and octets that wait, by fingerprint

_EPILOG = """\b
Examples:
  post_manager accounts list
  post_manager accounts add alice --address alice@alpha.example --certificate alice.asc
  post_manager accounts set alice quota_posts=500 rate=10
  post_manager accounts set alice quota_posts=default
  post_manager accounts remove alice
"""
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@click.group("accounts", epilog=_EPILOG)
def accounts() -> None:
    """Show and change who may store posts, how many, and how fast."""


@accounts.command("list")
@_json_option
@cli.one_sentence
@pass_section
def list_(section: PostManager, as_json: bool) -> None:
    """List all accounts, what of theirs waits, and how much may."""
    usage = _usage(section)
    rows = [_described(account, section, usage) for account in load_accounts(section.accounts, section.terms)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    lines: list[tuple[str, ...]] = [("account", "address", "posts", "of", "octets", "of", "rate")]
    columns = ("name", "address", "posts", "quota_posts", "octets", "quota_bytes", "rate")
    lines += [tuple(str(row[column]) for column in columns) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@accounts.command("show")
@click.argument("name")
@_json_option
@cli.one_sentence
@pass_section
def show(section: PostManager, name: str, as_json: bool) -> None:
    """Show one account."""
    account = _named(section, name)
    row = _described(account, section, _usage(section))
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    for key, value in row.items():
        click.echo(f"{key + ':':<15} {value}")


@accounts.command("add")
@click.argument("name")
@click.option("--address", required=True, help="The mail address that the account posts as.")
@click.option("--fingerprint", help="The whole one, as gpg --fingerprint prints it.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take the fingerprint from this certificate, armoured or binary.",
)
@click.argument("limits", metavar="[LIMIT=NUMBER]...", nargs=-1)
@cli.one_sentence
@pass_section
def add(
    section: PostManager,
    name: str,
    address: str,
    fingerprint: str | None,
    certificate: Path | None,
    limits: tuple[str, ...],
) -> None:
    """Let somebody store posts."""
    if (fingerprint is None) == (certificate is None):
        raise Exit(os.EX_USAGE, "give either --fingerprint or --certificate")
    if certificate is not None:
        fingerprint = _fingerprint_of(certificate, address)
    values = {"address": address, "fingerprint": fingerprint, **_limits(limits, default=False)}
    _file(section).add(name, values)
    click.echo(f"{name} may store posts{_told(section)}")


@accounts.command("set")
@click.argument("name")
@click.argument("limits", metavar="LIMIT=NUMBER...", nargs=-1, required=True)
@cli.one_sentence
@pass_section
def set_(section: PostManager, name: str, limits: tuple[str, ...]) -> None:
    """Change an account's limits: quota_posts, quota_bytes, max_post, lifetime_days, rate; default: as everybody's."""
    _file(section).set(name, _limits(limits, default=True))
    click.echo(f"{name} is changed{_told(section)}")


@accounts.command("remove")
@click.argument("name")
@cli.one_sentence
@pass_section
def remove(section: PostManager, name: str) -> None:
    """Let somebody store no more. What of his waits can be fetched, and his outbox still answers."""
    account = _named(section, name)
    _file(section).remove(name)
    told = _told(section)
    try:
        posts, _ = _usage(section).get(account.fingerprint, (0, 0))
        left = "1 post that waits stays until it is" if posts == 1 else f"{posts} posts that wait stay until they are"
    except (service.Away, StorageError):  # he may store no more all the same
        left = "posts that wait stay until they are"
    click.echo(f"{name} may store no more, {left} fetched{told}")


def _file(section: PostManager) -> AccountsFile:
    return AccountsFile(section.accounts, section.terms)


def _told(section: PostManager) -> str:
    """Have the running store read the file again; return what to say of that."""
    pid = pidfile.holder(section.pid_file)
    if pid is None:
        return "; no store runs with this spool directory, it will see that when it starts"
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        return f"; process {pid} is another user's: tell it by SIGHUP"
    except ProcessLookupError:
        return "; the store is ending just now"
    return f"; the store, process {pid}, was told to read it"


def _limits(texts: tuple[str, ...], *, default: bool) -> dict[str, int | None]:
    values: dict[str, int | None] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in LIMITS:
            raise Exit(os.EX_USAGE, f"{key!r} is no limit; known are {', '.join(LIMITS)}")
        if default and value == "default":
            values[key] = None
        elif value.isascii() and value.isdigit() and len(value) <= 18:
            values[key] = int(value)
        else:
            raise Exit(os.EX_USAGE, f"{key} must be a whole number, not {value!r}")
    return values


def _named(section: PostManager, name: str) -> Account:
    for account in load_accounts(section.accounts, section.terms):
        if account.name == name:
            return account
    raise _file(section).missing(name)


def _fingerprint_of(path: Path, address: str) -> str:
    """Return the fingerprint of the certificate in a file; nobody could open a session with another address's."""
    try:
        certificate = Certificate.parse(path.read_bytes())
        key = Address.parse(address).key
    except OpenPGPError as error:
        raise Exit(os.EX_DATAERR, f"{path} is not a certificate: {error.text}") from error
    except AddressError as error:
        raise Exit(os.EX_DATAERR, f"{address!r} is not a mail address: {error}") from error
    if key not in certificate.addresses:
        names = ", ".join(sorted(certificate.addresses)) or "no address"
        raise Exit(os.EX_DATAERR, f"{path} is not the certificate of {address}, but of {names}")
    return certificate.fingerprint


def _usage(section: PostManager) -> Usage:
    """What waits, by fingerprint; nothing where there is no database yet."""
    path = sqlite_path(section.database_url)
    if path is not None and not path.exists():
        return {}
    with contextlib.closing(service.open_database(section, 1)) as database:
        return gauges.by_sender(database)


def _described(account: Account, section: PostManager, usage: Usage) -> dict[str, Any]:
    posts, octets = usage.get(account.fingerprint, (0, 0))
    return {
        "name": account.name,
        "address": str(account.address),
        "fingerprint": account.fingerprint,
        "posts": posts,
        "quota_posts": account.terms.quota_posts,
        "octets": octets,
        "quota_bytes": account.terms.quota_octets,
        "max_post": account.terms.max_post,
        "lifetime_days": account.terms.lifetime // DAY,
        "rate": section.rate_client if account.rate is None else account.rate,
    }
