"""`stubmail outbox`: what became of the mail of our own accounts, and taking back what nobody has fetched yet."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click

from commands.accounts import chosen, config_option, users_file
from commands.times import stamp
from stubmail import cli, settings
from stubmail.address import Address
from stubmail.discovery import Resolver, Store, configured_store
from stubmail.errors import Exit, PermanentError
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.request import STATES
from stubmail.settings import Dns
from stubmail.store_answers import Sent
from stubmail.store_client import StoreClient

_EPILOG = """\b
Examples:
  stubmail outbox list --state waiting
  stubmail outbox show 00112233445566778899aabbccddeeff
  stubmail outbox withdraw --account alice@alpha.example 00112233445566778899aabbccddeeff
"""


class Outboxes:
    """The outboxes of some of our accounts, each at its own domain's store."""

    def __init__(self, config: Path, account: str | None) -> None:
        """Read stub.conf and the users file; ``account``: only that one. Raises Exit."""
        data = settings.load_file(config)
        self._users = chosen(users_file(config), account)
        self._resolver = Resolver.from_settings(settings.read(data, "dns", Dns))
        gateway = data.get("smtp2stub")
        fixed = gateway.get("store") if isinstance(gateway, dict) else None
        url = os.environ.get("STUBMAIL_SMTP2STUB_STORE") or fixed
        self._store = configured_store(str(url or ""))
        self._http = HttpClient(self._resolver.for_configured_hosts() if self._store else self._resolver)

    def clients(self) -> Iterator[tuple[Address, StoreClient]]:
        """Yield each account's address and its client. Raises StubmailError."""
        for user in self._users:
            if user.address is not None and user.gnupghome is not None:
                identity = Keyring(user.gnupghome).identity(user.address, user.passphrase())
                yield user.address, StoreClient(self._http, self._store_of(user.address), identity, user.address)

    def posts(self, states: tuple[str, ...] = ()) -> Iterator[tuple[Address, Sent]]:
        """Yield all posts in these states, of one account after the other, oldest first."""
        for address, client in self.clients():
            after, more = 0, True
            while more:
                page = client.outbox(after, states=states)
                for post in page.posts:
                    after = post.serial
                    yield address, post
                more = page.more and bool(page.posts)

    def _store_of(self, address: Address) -> Store:
        if self._store is not None:
            return self._store
        offer = self._resolver.discover(address.domain)
        if offer is None:
            raise PermanentError("5.4.4", f"{address.domain} has no stub mail records: it has no store")
        return offer.stores[0]


def _of_accounts(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say whose outbox it is; the command receives ``outboxes``."""

    @config_option
    @click.option("--account", metavar="ADDRESS", help="Only this account; all of the users file otherwise.")
    @wraps(function)
    def command(config: Path, account: str | None, **others: Any) -> None:
        function(Outboxes(config, account), **others)

    return command


@click.group("outbox", epilog=_EPILOG)
def outbox() -> None:
    """See which of your mail waits or was fetched; withdraw it."""


@outbox.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only posts in this state.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@_of_accounts
def list_(outboxes: Outboxes, states: tuple[str, ...], as_json: bool) -> None:
    """List posts: id, state, time of its last change, size and recipient."""
    posts = list(outboxes.posts(states))
    if as_json:
        click.echo(json.dumps([_as_json(account, post) for account, post in posts], indent=1))
        return
    for _, post in posts:
        click.echo(f"{post.id.hex()}  {post.state:9}  {stamp(post.changed)}  {post.size:>10}  {post.address}")


@outbox.command("show")
@click.argument("post_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@cli.one_sentence
@_of_accounts
def show(outboxes: Outboxes, post_id: str, as_json: bool) -> None:
    """Show all that the store says of one post."""
    wanted = _parse_id(post_id)
    for account, post in outboxes.posts():
        if post.id == wanted:
            data = _as_json(account, post)
            if not as_json:
                data |= {name: stamp(data[name]) for name in ("stored", "changed", "expires")}
            lines = [f"{name:8} {value}" for name, value in data.items()]
            click.echo(json.dumps(data, indent=1) if as_json else "\n".join(lines))
            return
    raise Exit(os.EX_DATAERR, f"no account has a post {post_id} in its outbox")


@outbox.command("withdraw")
@click.argument("post_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: state by id.")
@cli.one_sentence
@_of_accounts
def withdraw(outboxes: Outboxes, post_ids: tuple[str, ...], as_json: bool) -> None:
    """Take back posts that nobody has fetched yet; exit status 1 when it was too late for one of them."""
    ids = [_parse_id(post_id) for post_id in dict.fromkeys(post_ids)]
    states = dict.fromkeys(ids, "absent")
    for _, client in outboxes.clients():
        left = [post_id for post_id in ids if states[post_id] == "absent"]
        for start in range(0, len(left), 1000):
            states |= {result.id: result.state for result in client.withdraw(left[start : start + 1000])}
    if as_json:
        click.echo(json.dumps({post_id.hex(): state for post_id, state in states.items()}, indent=1))
    else:
        for post_id, state in states.items():
            click.echo(f"{post_id.hex()}  {state}")
    if set(states.values()) != {"withdrawn"}:
        raise SystemExit(1)


def _parse_id(text: str) -> bytes:
    with suppress(ValueError):
        post_id = bytes.fromhex(text)
        if len(post_id) == 16:
            return post_id
    raise Exit(os.EX_USAGE, f"{text!r} is not a post id: 32 hex digits")


def _as_json(account: Address, post: Sent) -> dict[str, Any]:
    return {
        "id": post.id.hex(),
        "state": post.state,
        "account": str(account),
        "address": str(post.address),
        "to": post.to,
        "size": post.size,
        "stored": post.stored,
        "changed": post.changed,
        "expires": post.expires,
    }
