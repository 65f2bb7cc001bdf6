"""--check: try everything that pulling needs, and say all that is wrong."""

import os

import click

from services.http2mbox.accounts import Accounts
from services.http2mbox.settings import Http2mbox
from stubmail.cli import parse_listen
from stubmail.counted import counted
from stubmail.discovery import Resolver, Store, configured_store
from stubmail.errors import Exit, StubmailError
from stubmail.listener import bind
from stubmail.maildrops import parse_maildrop
from stubmail.settings import ConfigError
from stubmail.users import load_users


def try_everything(options: Http2mbox, resolver: Resolver, accounts: Accounts, admin_listen: str) -> None:
    """Open every account, look at its maildrop, ask DNS about its domain, and listen where its pages are to be.

    ``accounts`` are not yet loaded. ``admin_listen`` is empty when there are to be no pages.

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
            people = f"{counted(contacts.count, 'correspondent')} in {counted(len(contacts.domains), 'domain')}"
            click.echo(f"{account.address}: key {account.identity.fingerprint}, {people}, maildrop {location}")
    try:
        fixed = configured_store(options.store, "http2mbox")
    except ConfigError as error:
        errors.append(error)
    else:
        errors += _look_up(sorted(domains), resolver, fixed)
    if admin_listen:
        errors += _listen(admin_listen, accounts)
    if errors:
        raise Exit(errors[0].status, "; ".join(error.text for error in errors))


def _listen(where: str, accounts: Accounts) -> list[Exit]:
    """Say whether the pages about health can be served there; a puller that runs already may well do so."""
    try:
        bind(*parse_listen(where)).close()
    except Exit as error:
        if error.status == os.EX_UNAVAILABLE and accounts.are_pulled_for():
            click.echo(f"admin_listen: {where} is in use, as an http2mbox is running")
            return []
        return [Exit(error.status, f"admin_listen: {error.text}; does another program have it?")]
    click.echo(f"admin_listen: {where} is free")
    return []


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
