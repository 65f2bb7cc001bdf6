"""`stubmail trace`: how mail for an address would travel, step by step, without sending anything."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from commands.accounts import chosen, users_file
from commands.gateway import Rules, gateway_rules
from commands.resolver import resolver_options
from stubmail import cli
from stubmail.address import Address, AddressError
from stubmail.discovery import Resolver, StubDomain
from stubmail.errors import Exit, StubmailError, TemporaryError
from stubmail.hkp_client import look_up
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.routing import Policy, Route, decide

_HTTP_SECONDS = 10.0
_STATUS = {"deferred": os.EX_TEMPFAIL, "refused": os.EX_UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way: what was asked, whether that went well, and what came out."""

    what: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole way: ``route`` is "stub", "legacy" (no stub mail: the smarthost's, in clear text), "deferred" or
    "refused"."""

    address: str
    route: str
    steps: tuple[Step, ...]


@click.command(
    "trace",
    epilog="Examples: stubmail trace bob@beta.example; stubmail trace bob@beta.example --account alice --json",
)
@click.argument("address")
@click.option(
    "--gnupghome", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Look into this keyring first."
)
@click.option("--account", metavar="ADDRESS", help="Look into the keyring of this account of the users file first.")
@click.option("--json", "as_json", is_flag=True, help="Print the steps for a program.")
@cli.one_sentence
@resolver_options
def trace(
    address: str, resolver: Resolver, config: Path, gnupghome: Path | None, account: str | None, as_json: bool
) -> None:
    """Show how mail for ADDRESS would travel: by which policy, what DNS offers, which key is found where.

    Nothing is sent and no key is imported. Exits 0 when there is a way, 75 when mail would be deferred, 69 when it
    would come back to its sender.
    """
    try:
        recipient = Address.parse(address)
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error
    if account is not None:
        gnupghome = chosen(users_file(config), account)[0].gnupghome or gnupghome
    result = follow(recipient, resolver, HttpClient(resolver, timeout=_HTTP_SECONDS), gnupghome, gateway_rules(config))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        _print(result)
    sys.exit(_STATUS.get(result.route, os.EX_OK))


def follow(
    recipient: Address, resolver: Resolver, http: HttpClient, gnupghome: Path | None = None, rules: Rules | None = None
) -> Trace:
    """Go the way that a gateway would go, up to the encryption."""
    rules = rules or Rules()
    steps = [Step("policy", True, rules.policies.explain(recipient))]
    try:
        offer = None
        if rules.policies.of(recipient) is not Policy.NEVER:
            offer = resolver.discover(recipient.domain)
            steps.append(Step("dns", True, _describe(offer) if offer else f"{recipient.domain} offers no stub mail"))
    except StubmailError as error:
        steps.append(Step("dns", False, f"{error.text}: mail waits, it is never sent in clear text instead"))
        return Trace(str(recipient), "deferred", tuple(steps))
    remembered = False
    try:
        remembered = offer is None and recipient.domain in rules.known
    except OSError as error:
        steps.append(Step("memory", False, f"it cannot be read: {error.strerror}; ask as the gateway's user"))
    try:
        route = _decide(recipient, offer, rules, remembered=remembered)
    except StubmailError as error:
        steps.append(Step("route", False, error.text))
        outcome = "deferred" if isinstance(error, TemporaryError) else "refused"
        return Trace(str(recipient), outcome, tuple(steps))
    if route is Route.SMARTHOST or offer is None:
        return Trace(str(recipient), "legacy", tuple(steps))
    steps += _hosts(resolver, offer)
    found, key_steps = _find_key(recipient, offer, http, gnupghome)
    return Trace(str(recipient), "stub" if found else "deferred", (*steps, *key_steps))


def _decide(recipient: Address, offer: StubDomain | None, rules: Rules, *, remembered: bool) -> Route:
    return decide(
        recipient.domain,
        offered=offer is not None,
        policy=rules.policies.of(recipient),
        remembered=remembered,
        smarthost=rules.smarthost,
    )


def _describe(offer: StubDomain) -> str:
    parts = [f"{offer.domain} offers stub mail: key server {', '.join(map(str, offer.keyservers))}"]
    parts += [f"store {', '.join(store.url for store in offer.stores)}"]
    parts += [f"UDP check {', '.join(map(str, offer.checks)) or 'not offered'}"]
    return "; ".join(parts)


def _hosts(resolver: Resolver, offer: StubDomain) -> Iterator[Step]:
    hosts = [target.host for target in offer.keyservers + offer.checks] + [store.host for store in offer.stores]
    for host in dict.fromkeys(hosts):
        try:
            yield Step("address", True, f"{host} is at {', '.join(resolver.addresses(host))}")
        except TemporaryError as error:
            yield Step("address", False, error.text)


def _find_key(
    recipient: Address, offer: StubDomain, http: HttpClient, gnupghome: Path | None
) -> tuple[bool, list[Step]]:
    """Look for the recipient's certificate where a gateway does: keyring, then key servers; a base address last."""
    now = datetime.now(UTC)
    steps: list[Step] = []
    if gnupghome is not None and (known := (keyring := Keyring(gnupghome)).find(recipient)):
        problem = known.problem(now)
        steps.append(Step("keyring", not problem, f"key {known.fingerprint}, {problem or 'usable'}"))
        address = recipient if recipient.key in known.addresses else recipient.base
        if change := keyring.changes.of(address):
            offered = f"{change.certificate.fingerprint} is offered instead, and not used"
            steps.append(Step("changed", False, f"{offered}; if it is right: stubmail keys accept {address}"))
        return not problem, steps  # the keyring is the final authority: no key server is asked
    for address in dict.fromkeys((recipient, recipient.base)):
        for target in offer.keyservers:
            try:
                certificate = look_up(http, target, address, now)
            except StubmailError as error:
                steps.append(Step("key", False, f"{target}: {error.text}"))
                continue
            steps.append(Step("key", True, f"{target} has key {certificate.fingerprint} for {address}"))
            return True, steps
    return False, steps


def _print(result: Trace) -> None:
    for step in result.steps:
        click.echo(f"{'ok' if step.ok else 'failed':<7} {step.what:<8} {step.text}")
    meaning = {
        "stub": "encrypted to that key, it waits at the sender's store until it is fetched",
        "legacy": "relayed by the smarthost as ordinary mail, unencrypted",
        "deferred": "kept in the gateway's spool and tried again",
        "refused": "returned to its sender",
    }
    click.echo(f"route   {result.route:<8} {meaning[result.route]}")
