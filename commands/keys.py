"""`stubmail keys`: the certificates of an account's correspondents, which decide whose mail is fetched and believed."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from commands.accounts import Home, keyring_options, only_one
from stubmail import cli, settings
from stubmail.address import Address, AddressError
from stubmail.discovery import Resolver
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.hkp_client import look_up
from stubmail.http_client import HttpClient
from stubmail.keyring import KeyConflict, Keyring
from stubmail.openpgp import Certificate
from stubmail.openpgp.certificate import MAX_ARMORED
from stubmail.settings import Dns

_EPILOG = """\b
Examples:
  stubmail keys list
  stubmail keys show alice@alpha.example
  stubmail keys export bob@beta.example > bob.asc
  stubmail keys import alice.asc
  stubmail keys fetch alice@alpha.example
  stubmail keys accept alice@alpha.example 00112233445566778899AABBCCDDEEFF00112233
"""


@click.group("keys", epilog=_EPILOG)
def keys() -> None:
    """List, show, export, import and fetch certificates."""


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@keyring_options
def list_(homes: list[Home], config: Path, as_json: bool) -> None:
    """List the correspondents' certificates: address, fingerprint, usable or why not."""
    rows = [
        {"account": home.name, "address": address, "fingerprint": found.fingerprint, "state": _state(found)}
        for home in homes
        for address, found in _correspondents(home.keyring)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        owner = f"  {row['account']}" if len(homes) > 1 else ""
        click.echo(f"{row['address']}  {row['fingerprint']}  {row['state']}{owner}")


@keys.command("show")
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@cli.one_sentence
@keyring_options
def show(homes: list[Home], config: Path, address: str, as_json: bool) -> None:
    """Show the certificate that the keyring has for ADDRESS, a correspondent's or our own."""
    found = _find(only_one(homes), address)
    data: dict[str, Any] = {
        "fingerprint": found.fingerprint,
        "state": _state(found),
        "created": f"{found.created:%Y-%m-%dT%H:%M:%SZ}",
        "expires": f"{found.expires:%Y-%m-%dT%H:%M:%SZ}" if found.expires else "never",
        "user_ids": list(found.user_ids),
    }
    if as_json:
        click.echo(json.dumps(data, indent=1))
        return
    data["user_ids"] = ", ".join(data["user_ids"])
    for name, value in data.items():
        click.echo(f"{name:11}  {value}")


@keys.command("export")
@click.argument("address")
@cli.one_sentence
@keyring_options
def export(homes: list[Home], config: Path, address: str) -> None:
    """Write the certificate for ADDRESS to standard output, in ASCII armour."""
    click.echo(_find(only_one(homes), address).armored(), nl=False)


@keys.command("import")
@click.argument("file", type=click.File("rb"))
@cli.one_sentence
@keyring_options
def import_(homes: list[Home], config: Path, file: BinaryIO) -> None:
    """Import a certificate from FILE ("-": standard input). Another one for its address is never replaced."""
    certificate = Certificate.parse(file.read(MAX_ARMORED + 1))
    _add(only_one(homes), certificate)


@keys.command("fetch")
@click.argument("address")
@cli.one_sentence
@keyring_options
def fetch(homes: list[Home], config: Path, address: str) -> None:
    """Import the certificate that the key server of ADDRESS's domain has; compare its fingerprint with the owner."""
    home = only_one(homes)
    _add(home, _look_up(config, _parse(address)))


@keys.command("accept")
@click.argument("address")
@click.argument("fingerprint")
@cli.one_sentence
@keyring_options
def accept(homes: list[Home], config: Path, address: str, fingerprint: str) -> None:
    """Import the certificate of ADDRESS from its domain's key server if it has this FINGERPRINT, and only then."""
    home = only_one(homes)
    found = _look_up(config, _parse(address))
    wanted = "".join(fingerprint.split()).upper()
    if found.fingerprint != wanted:
        text = f"the key server has key {found.fingerprint} for {address}, not {wanted}; nothing was imported"
        raise Exit(os.EX_NOPERM, text)
    _add(home, found)


def _correspondents(keyring: Keyring) -> Iterator[tuple[str, Certificate]]:
    for address, certificates in sorted(keyring.correspondents().items()):
        for certificate in certificates:
            yield address, certificate


def _state(certificate: Certificate) -> str:
    return certificate.problem(datetime.now(UTC)) or "usable"


def _find(home: Home, address: str) -> Certificate:
    found = home.keyring.find(_parse(address))
    if found is None:
        raise Exit(os.EX_NOUSER, f"the keyring of {home.name} has no key for {address}")
    return found


def _add(home: Home, certificate: Certificate) -> None:
    """Import, and say what came of it. Raises Exit that names both fingerprints when there is another certificate."""
    names = ", ".join(sorted(certificate.addresses)) or "nobody"
    try:
        new = home.keyring.add(certificate)
    except KeyConflict as error:
        remedy = f"if that is right, first remove the old one: gpg --homedir {home.keyring.home} --delete-keys"
        raise Exit(os.EX_NOPERM, f"{error.text}; {remedy} {error.present}") from error
    click.echo(f"{'imported' if new else 'was there'}  {certificate.fingerprint}  {names}")


def _look_up(config: Path, address: Address) -> Certificate:
    """Ask the key servers of the address's domain, in order. Raises StubmailError."""
    resolver = Resolver.from_settings(_dns(config))
    offer = resolver.discover(address.domain)
    if offer is None:
        raise PermanentError("5.4.4", f"{address.domain} has no stub mail records: it names no key server")
    http = HttpClient(resolver)
    failure = TemporaryError("4.7.5", f"{address.domain} names no key server")
    for target in offer.keyservers:
        try:
            return look_up(http, target, address, datetime.now(UTC))
        except TemporaryError as error:
            failure = error
    raise failure


def _dns(config: Path) -> Dns:
    try:
        data = settings.load_file(config)
    except settings.MissingConfig:  # the keyring may have been named by --gnupghome
        data = {}
    return settings.read(data, "dns", Dns)


def _parse(address: str) -> Address:
    try:
        return Address.parse(address)
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
