"""`stubmail contacts`: people outside the keyring who have mail waiting; let them in, or hear no more of them."""

import json
import os
import time
from pathlib import Path

import click

from commands import puller
from commands.accounts import chosen, config_option, users_file
from commands.key_servers import KeyServers
from commands.puller import Account
from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.errors import Exit
from stubmail.keyring import KeyConflict, Keyring
from stubmail.pull_state import OtherSender
from stubmail.settings import ConfigError

_EPILOG = """\b
Examples:
  stubmail contacts pending
  stubmail contacts accept carol@alpha.example
  stubmail contacts refuse eve@alpha.example
"""
_account_option = click.option("--account", metavar="ADDRESS", help="Whose contacts; all accounts otherwise.")


@click.group("contacts", epilog=_EPILOG)
def contacts() -> None:
    """See who else has mail waiting for you; accept or refuse them."""


@contacts.command("pending")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@_account_option
@config_option
@cli.one_sentence
def pending(config: Path, account: str | None, as_json: bool) -> None:
    """List who has mail waiting and is not in the keyring: address, key, how many, since when.

    Only stores of correspondents' domains are asked, so only their users are known.
    """
    with puller.accounts(config, account) as accounts:
        rows = [_as_json(each, other) for each in accounts for other in each.state.others() if not other.expected]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(row["since"])))
        owner = f"  {row['account']}" if len({row["account"] for row in rows}) > 1 else ""
        click.echo(f"{row['address']}  {row['fingerprint']}  {row['count']:>6}  {since}{owner}")


@contacts.command("accept")
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask: I know that this is the right fingerprint.")
@_account_option
@config_option
@cli.one_sentence
def accept(config: Path, account: str | None, address: str, yes: bool) -> None:
    """Get the key of ADDRESS from its domain's key server, show it, import it if you say so, and pull the mail.

    Exit status: that of http2mbox; 77 when another key is in the keyring, or the waiting mail comes with another.
    """
    stranger = _parse(address)
    users = [user for user in chosen(users_file(config), account) if user.address and user.gnupghome]
    if len(users) != 1:
        names = ", ".join(str(user.address) for user in users)
        raise (
            Exit(os.EX_USAGE, f"say whose contact with --account: {names}")
            if users
            else ConfigError("no account has an address and a gnupghome")
        )
    owner, home = users[0].address, users[0].gnupghome
    assert owner is not None and home is not None
    certificate = KeyServers(config).look_up(stranger)
    with puller.accounts(config, str(owner)) as accounts:
        waiting = [other for each in accounts for other in each.state.others() if other.address == stranger.key]
    click.echo(f"address      {stranger}")
    click.echo(f"fingerprint  {certificate.fingerprint}")
    click.echo(f"created      {certificate.created:%Y-%m-%dT%H:%M:%SZ}")
    _compare(stranger, certificate.fingerprint, waiting)
    if not yes and not click.confirm("Compare the fingerprint with its owner. Import it?"):
        raise Exit(1, "nothing was imported")
    try:
        new = Keyring(home).add(certificate)
    except KeyConflict as error:
        raise Exit(os.EX_NOPERM, error.text) from error
    with puller.accounts(config, str(owner)) as accounts:
        for each in accounts:
            each.state.unrefuse(stranger.key)
    click.echo("imported" if new else "was in the keyring")
    raise SystemExit(puller.pull(config, owner))


@contacts.command("refuse")
@click.argument("address")
@_account_option
@config_option
@cli.one_sentence
def refuse(config: Path, account: str | None, address: str) -> None:
    """Hear no more of ADDRESS's mail. It stays with its sender until it expires; `accept` takes this back."""
    stranger = _parse(address)
    with puller.accounts(config, account) as accounts:
        if not accounts:
            raise Exit(os.EX_NOUSER, f"nothing was ever pulled{f' for {account}' if account else ''}")
        for each in accounts:
            each.state.refuse(stranger.key, int(time.time()))


def _compare(stranger: Address, fingerprint: str, waiting: list[OtherSender]) -> None:
    """Say how much waits under that key. Raises Exit when all that waits is under another."""
    same = sum(other.count for other in waiting if other.sender == fingerprint)
    others = [other.sender for other in waiting if other.sender != fingerprint]
    if others and not same:
        text = f"the mail of {stranger} that waits is under key {', '.join(others)}, the key server has {fingerprint}"
        raise Exit(os.EX_NOPERM, f"{text}: nothing was imported")
    click.echo(f"waiting      {same}")


def _as_json(account: Account, other: OtherSender) -> dict[str, str | int]:
    return {
        "account": str(account.address),
        "address": other.address,
        "fingerprint": other.sender,
        "count": other.count,
        "since": other.time,
    }


def _parse(address: str) -> Address:
    try:
        return Address.parse(address)
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
