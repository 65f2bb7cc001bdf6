"""`stubmail keys`: the certificates of an account's correspondents, which decide whose mail is fetched and believed."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from commands.accounts import Home, keyring_options, only_one
from commands.key_servers import KeyServers
from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.errors import Exit, StubmailError
from stubmail.key_refresh import State
from stubmail.keyring import KeyConflict, Keyring
from stubmail.openpgp import Certificate
from stubmail.openpgp.certificate import MAX_ARMORED

_FAILED = "failed"
_EPILOG = """\b
Examples:
  stubmail keys list
  stubmail keys show alice@alpha.example
  stubmail keys export bob@beta.example > bob.asc
  stubmail keys import alice.asc
  stubmail keys fetch alice@alpha.example
  stubmail keys refresh
  stubmail keys accept alice@alpha.example
  stubmail keys accept alice@alpha.example 00112233445566778899AABBCCDDEEFF00112233
"""
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


@click.group("keys", epilog=_EPILOG)
def keys() -> None:
    """List, show, export, import, fetch, refresh and accept certificates."""


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@keyring_options
def list_(homes: list[Home], config: Path, as_json: bool) -> None:
    """List the correspondents' certificates: address, fingerprint, usable or why not.

    Where the key server was seen to have another key, which is not used, its fingerprint stands behind.
    """
    rows = [row for home in homes for row in _rows(home)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        owner = f"  {row['account']}" if len(homes) > 1 else ""
        changed = f"  changed: {row['changed']} is offered instead" if row["changed"] else ""
        click.echo(f"{row['address']}  {row['fingerprint'] or '-'}  {row['state']}{changed}{owner}")


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
    if change := only_one(homes).keyring.changes.of(_parse(address)):
        data["changed"] = change.certificate.fingerprint
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
    _add(home, KeyServers(config).look_up(_parse(address)))


@keys.command("refresh")
@click.argument("addresses", metavar="[ADDRESS...]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@keyring_options
def refresh(homes: list[Home], config: Path, addresses: tuple[str, ...], as_json: bool) -> None:
    """Ask key servers for news of the certificates for some addresses, or of all in the keyring.

    A new expiry, subkey or revocation is taken in. Another certificate is not: it is shown as "changed" until you
    accept it. Exits 0 when all is well, 77 when one has changed, 75 when a key server did not answer.
    """
    servers = KeyServers(config)
    rows = [row for home in homes for row in _refresh(servers, home, [_parse(address) for address in addresses])]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo("  ".join(filter(None, (row["address"], row["fingerprint"], row["state"], row["detail"]))))
    if addresses and not rows:
        raise Exit(os.EX_NOUSER, f"no keyring has a key for {', '.join(addresses)}")
    states = {row["state"] for row in rows}
    sys.exit(os.EX_NOPERM if State.CHANGED in states else os.EX_TEMPFAIL if _FAILED in states else os.EX_OK)


@keys.command("accept")
@click.argument("what", metavar="ADDRESS|FINGERPRINT")
@click.argument("fingerprint", required=False)
@cli.one_sentence
@keyring_options
def accept(homes: list[Home], config: Path, what: str, fingerprint: str | None) -> None:
    """Use the certificate that a key server was seen to have in place of the keyring's; the old one goes into a file.

    With ADDRESS and FINGERPRINT, the key server is asked if need be, and its certificate imported only if it is that.
    """
    home = only_one(homes)
    wanted = "".join((fingerprint or what).split()).upper()
    if _FINGERPRINT.fullmatch(wanted) and fingerprint is None:
        found = next((change for change in home.keyring.changes if change.certificate.fingerprint == wanted), None)
        address = found.address if found else None
    else:
        address = _parse(what)
        found = home.keyring.changes.of(address)
    if fingerprint is not None and address is not None and (not found or found.certificate.fingerprint != wanted):
        certificate = KeyServers(config).look_up(address)
        if certificate.fingerprint != wanted:
            text = f"the key server has key {certificate.fingerprint} for {address}, not {wanted}; nothing was imported"
            raise Exit(os.EX_NOPERM, text)
    elif found is not None:
        certificate = found.certificate
    else:
        advice = "stubmail keys refresh asks the key servers"
        raise Exit(os.EX_DATAERR, f"no changed key {wanted if address is None else f'for {what}'} was seen; {advice}")
    assert address is not None
    _replace(home, certificate, address)


def _replace(home: Home, certificate: Certificate, address: Address) -> None:
    if problem := certificate.problem(datetime.now(UTC)):
        raise Exit(os.EX_DATAERR, f"key {certificate.fingerprint} for {address} cannot be used: {problem}")
    files = home.keyring.replace(certificate, address)
    home.keyring.changes.settle(address)
    click.echo(f"accepted  {certificate.fingerprint}  {address}")
    for path in files:
        click.echo(f"replaced  {path.stem}  which is kept in {path}")


def _rows(home: Home) -> Iterator[dict[str, Any]]:
    changes = {change.address.key: change.certificate.fingerprint for change in home.keyring.changes}
    for address, found in _correspondents(home.keyring):
        changed = changes.pop(address, None)
        yield _row(home, address, found.fingerprint, _state(found), changed if changed != found.fingerprint else None)
    for address, changed in sorted(changes.items()):  # the keyring's own was disabled, or has gone
        yield _row(home, address, None, "missing", changed)


def _row(home: Home, address: str, fingerprint: str | None, state: str, changed: str | None) -> dict[str, Any]:
    return {"account": home.name, "address": address, "fingerprint": fingerprint, "state": state, "changed": changed}


def _refresh(servers: KeyServers, home: Home, wanted: list[Address]) -> Iterator[dict[str, Any]]:
    """Yield what came of each address; without ``wanted`` of all whose domain has a key server."""
    for text in home.keyring.correspondents():
        address = Address.parse(text)
        if wanted and address.key not in {one.key for one in wanted}:
            continue
        row: dict[str, Any] = {"account": home.name, "address": text, "fingerprint": None, "detail": ""}
        try:
            if not wanted and servers.has_none(address):
                continue
            found = servers.refresh(home.keyring, address)
        except StubmailError as error:
            yield row | {"state": _FAILED, "detail": error.text}
            continue
        if found is not None:
            detail = found.offered.fingerprint if found.offered else ""
            yield row | {"fingerprint": found.present.fingerprint, "state": str(found.state), "detail": detail}


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
        remedy = f"if that is right, say: stubmail keys accept {error.address} {error.offered}"
        if certificate.addresses == {error.address}:
            home.keyring.changes.note(Address.parse(error.address), certificate, time.time())
        else:
            remedy = f"if that is right, first remove the old one: gpg --homedir {home.keyring.home} --delete-keys"
        raise Exit(os.EX_NOPERM, f"{error.text}; {remedy}") from error
    click.echo(f"{'imported' if new else 'was there'}  {certificate.fingerprint}  {names}")


def _parse(address: str) -> Address:
    try:
        return Address.parse(address)
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
