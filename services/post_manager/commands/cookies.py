"""`post_manager cookies`: forgets cookies at the store, so that their holders make a full check over HTTP."""

import contextlib
import os

import click

from services.post_manager import service
from services.post_manager.commands.section import pass_section
from services.post_manager.policy import load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.database import Database
from services.post_manager.storage.flushing import delete_cookies, fingerprints_of
from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.errors import Exit
from stubmail.shape import FINGERPRINT

_EPILOG = """\b
Examples:
  post_manager cookies flush
  post_manager cookies flush bob@beta.example
"""


@click.group("cookies", epilog=_EPILOG)
def cookies() -> None:
    """Forget UDP cookies: clients are told that theirs are unknown, and check over HTTP."""


@cookies.command("flush")
@click.argument("whose", metavar="[ADDRESS|FINGERPRINT]", required=False)
@cli.one_sentence
@pass_section
def flush(section: PostManager, whose: str | None) -> None:
    """Delete all cookies, or those of one certificate or address; notifiers at work notice with the next check."""
    with contextlib.closing(service.open_database(section, 1)) as database:
        if whose is None:
            count = delete_cookies(database)
        else:
            count = sum(delete_cookies(database, one) for one in _fingerprints(section, database, whose))
    click.echo(f"{count} cookie{'' if count == 1 else 's'} deleted")


def _fingerprints(section: PostManager, database: Database, whose: str) -> set[str]:
    """Return whom an argument means: a fingerprint itself, or those that an address is known to have."""
    if FINGERPRINT.fullmatch(whose.upper()):
        return {whose.upper()}
    try:
        address = Address.parse(whose)
    except AddressError as error:
        raise click.BadParameter(f"{whose!r} is neither an address nor a whole fingerprint") from error
    found = {
        account.fingerprint
        for account in load_accounts(section.accounts, section.terms)
        if account.address.key == address.key
    }
    found |= fingerprints_of(database, address)
    if not found:
        raise Exit(os.EX_NOUSER, f"no account, session or post here tells the certificate of {address}")
    return found
