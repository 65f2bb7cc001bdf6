"""`stubmail provision`: keys and accounts of one domain, made once; what is there is kept."""

import os
from pathlib import Path

import click

from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.errors import Exit
from stubmail.provision import Site, provision


@click.command(
    "provision",
    epilog="Example: stubmail provision alice@alpha.example --root /var/lib/stubmail --password-file secret",
)
@click.argument("addresses", nargs=-1, required=True)
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Where everything of the domain lies.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    required=True,
    help="A file whose first line is the new accounts' password for SMTP and POP3.",
)
@cli.one_sentence
def provision_(addresses: tuple[str, ...], root: Path, password_file: Path) -> None:
    """Make an account with an OpenPGP key for each of ADDRESSES, all of one domain.

    Below the root: accounts/users.toml, keys/NAME (GnuPG homes), store/accounts.toml, hkp/ (what the key server
    publishes), mail/ and tls/. Accounts that exist keep their key and password.
    """
    try:
        parsed = [Address.parse(address) for address in addresses]
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
    domains = {address.domain for address in parsed}
    if len(domains) > 1:
        raise Exit(os.EX_USAGE, "all addresses must be of one domain; run it once for each domain")
    password = password_file.read_text().splitlines()[:1]
    if not password or not password[0]:
        raise Exit(os.EX_DATAERR, f"{password_file} holds no password")
    made = provision(Site(domains.pop(), root), [address.local for address in parsed], password[0])
    for address in parsed:
        click.echo(f"{address} {made[address.local].fingerprint}")
