"""--check: try everything that pulling needs, and say all that is wrong."""

import os

import click

from services.http2mbox.accounts import Accounts
from services.http2mbox.settings import Http2mbox
from stubmail.discovery import Resolver, Store, configured_store
from stubmail.errors import Exit, StubmailError
from stubmail.maildrops import parse_maildrop
from stubmail.settings import ConfigError
from stubmail.users import load_users


def try_everything(options: Http2mbox, resolver: Resolver, accounts: Accounts) -> None:
    """Open every account, look at its maildrop, and ask DNS about its domain; ``accounts`` are not yet loaded.

    Prints what is right on standard output. Raises the Exit when one thing is wrong; when more is, one with the first
    one's status and all the sentences.
    """
    errors: list[Exit] = []
    accounts.reload()
    errors += [_exit(name, error) for name, error in accounts.failures.items()]
    maildrops = {user.address: user for user in load_users(options.users)}
    domains: set[str] = set()
    for account in accounts:
        domains.add(account.address.domain)
        try:
            contacts = account.contacts()
            location = parse_maildrop(maildrops[account.address])
            location.check()
        except (Exit, StubmailError) as error:
            errors.append(_exit(str(account.address), error))
        else:
            people = f"{contacts.count} correspondents in {len(contacts.domains)} domains"
            click.echo(f"{account.address}: key {account.identity.fingerprint}, {people}, maildrop {location}")
    try:
        fixed = configured_store(options.store, "http2mbox")
    except ConfigError as error:
        errors.append(error)
    else:
        errors += _look_up(sorted(domains), resolver, fixed)
    if errors:
        raise Exit(errors[0].status, "; ".join(error.text for error in errors))


def _look_up(domains: list[str], resolver: Resolver, fixed: Store | None) -> list[Exit]:
    """Say what DNS has of our own domains, and whose outbox is watched for mail that nobody fetched."""
    errors = []
    for domain in domains:
        try:
            found = resolver.discover(domain)
        except StubmailError as error:
            errors.append(_exit(domain, error))
            continue
        store = fixed or (found.stores[0] if found else None)
        watched = f"own mail is watched at {store.url}" if store else "own mail is not watched"
        click.echo(f"{domain}: {'has' if found else 'DNS answers, but there are no'} stub mail records; {watched}")
    return errors


def _exit(name: str, error: Exit | StubmailError | OSError) -> Exit:
    if isinstance(error, Exit):
        return error
    text = error.text if isinstance(error, StubmailError) else str(error)
    return Exit(os.EX_UNAVAILABLE, f"{name}: {text}")
