"""`stubmail cookies`: forget what lets the puller ask by UDP, so that it asks every store in full."""

import os
from pathlib import Path

import click

from commands.accounts import config_option
from commands.puller import state_directory
from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.cookies import FILE_NAME, account_directory, flush
from stubmail.errors import Exit

_EPILOG = """\b
Examples:
  stubmail cookies flush
  stubmail cookies flush --account bob@beta.example
"""


@click.group("cookies", epilog=_EPILOG)
def cookies() -> None:
    """Forget UDP cookies, so that the next pull asks in full."""


@cookies.command("flush")
@click.option("--account", metavar="ADDRESS", help="Only this account's.")
@config_option
@cli.one_sentence
def flush_(account: str | None, config: Path) -> None:
    """Delete the cookies of all accounts, or of one. A puller at work notices with its next round."""
    state = state_directory(config)
    directories = [_directory(state, account)] if account is not None else sorted(state.glob("*/"))
    count = sum(flush(directory / FILE_NAME) for directory in directories)
    click.echo(f"{count} cookie{'' if count == 1 else 's'} deleted")


def _directory(state: Path, account: str) -> Path:
    try:
        directory = account_directory(state, Address.parse(account))
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
    if not directory.is_dir():
        raise Exit(os.EX_NOUSER, f"nothing was ever pulled for {account} with the state in {state}")
    return directory
