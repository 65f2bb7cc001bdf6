"""`stubmail held`: mail that was not delivered since it fails a rule of trust; see why, and decide about it."""

import json
import os
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from commands import puller
from commands.accounts import config_option
from commands.puller import Account
from stubmail import cli
from stubmail.errors import Exit
from stubmail.pull_state import DROP, RELEASE, HeldPost, OtherSender

_EPILOG = """\b
Examples:
  stubmail held list
  stubmail held show 00112233445566778899aabbccddeeff
  stubmail held release 00112233445566778899aabbccddeeff
  stubmail held drop 00112233445566778899aabbccddeeff

\b
release and drop exit with 0 when it is done, 75 when a puller that is at work will do it with its next round, or
another try may help, and 65 when a post cannot be released: it could not even be decrypted.
"""
_ID_DIGITS = 32

Found = list[tuple[Account, HeldPost]]


def _of_accounts(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say whose mail it is; the command receives ``accounts`` and ``config``."""

    @config_option
    @click.option("--account", metavar="ADDRESS", help="Only this account; all of the users file otherwise.")
    @wraps(function)
    def command(config: Path, account: str | None, **others: Any) -> None:
        with puller.accounts(config, account) as accounts:
            function(accounts, config=config, **others)

    return command


@click.group("held", epilog=_EPILOG)
def held() -> None:
    """See what mail was held back and why; have it delivered or thrown away."""


@held.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@_of_accounts
def list_(accounts: list[Account], config: Path, as_json: bool) -> None:
    """List posts that are held: id, since when, size, sender and why; then correspondents with another key."""
    posts = [(account, post) for account in accounts for post in account.state.held().values()]
    changed = [(account, other) for account in accounts for other in account.state.others() if other.expected]
    if as_json:
        rows = [_as_json(*each) for each in posts] + [_changed_as_json(*each) for each in changed]
        click.echo(json.dumps(rows, indent=1))
        return
    for _, post in posts:
        decision = f"  [{post.decision} with the next pull]" if post.decision else ""
        line = f"{post.id.hex()}  {_stamp(post.time)}  {post.size:>9}  {post.address}  {post.reason}: {post.text}"
        click.echo(line + decision)
    for account, other in changed:
        text = f"{other.count} of {other.address} with key {other.sender}; the keyring has {other.expected}"
        remedy = f"stubmail keys accept --account {account.address} {other.address} {other.sender}"
        click.echo(f"{'not even listed':{_ID_DIGITS}}  {_stamp(other.time)}  {text}; if that is right: {remedy}")


@held.command("show")
@click.argument("post_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@cli.one_sentence
@_of_accounts
def show(accounts: list[Account], config: Path, post_id: str, as_json: bool) -> None:
    """Show all that is known of one held post."""
    rows = [_as_json(account, post) for account, post in _find(accounts, [post_id])]
    if as_json:
        click.echo(json.dumps(rows[0], indent=1))
        return
    for row in rows:
        row["since"] = _stamp(row["since"])
        for name, value in row.items():
            click.echo(f"{name:11} {value}")


@held.command("release")
@click.argument("post_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what came of it, by id.")
@cli.one_sentence
@_of_accounts
def release(accounts: list[Account], config: Path, post_ids: tuple[str, ...], as_json: bool) -> None:
    """Deliver posts although they fail a rule, each once, with a warning as the first line of its header."""
    _carry_out(_find(accounts, post_ids), RELEASE, config, as_json)


@held.command("drop")
@click.argument("post_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what came of it, by id.")
@cli.one_sentence
@_of_accounts
def drop(accounts: list[Account], config: Path, post_ids: tuple[str, ...], as_json: bool) -> None:
    """Have posts deleted at their store without delivery; their sender sees them as fetched."""
    _carry_out(_find(accounts, post_ids), DROP, config, as_json)


def _carry_out(found: Found, decision: str, config: Path, as_json: bool) -> None:
    """Note the decision, pull, say what came of it, and exit accordingly."""
    for account, post in found:
        account.state.decide([post.key], decision)
    for address in dict.fromkeys(account.address for account, _ in found):
        puller.pull(config, address)
    results = {post.id.hex(): _result(account, post, decision) for account, post in found}
    if as_json:
        click.echo(json.dumps(results, indent=1))
    else:
        for post_id, result in results.items():
            click.echo(f"{post_id}  {result}")
    if "held" in results.values():
        raise SystemExit(os.EX_DATAERR)
    if "pending" in results.values():
        raise SystemExit(os.EX_TEMPFAIL)


def _result(account: Account, post: HeldPost, decision: str) -> str:
    now = account.state.held().get(post.key)
    if now is not None:
        return "pending" if now.decision else "held"
    if not account.state.delivered([post.key]):
        return "gone"  # withdrawn or expired meanwhile
    return "delivered" if decision == RELEASE else "dropped"


def _find(accounts: list[Account], post_ids: Iterable[str]) -> Found:
    """Return the held posts with these ids. Raises Exit."""
    found: Found = []
    for text in dict.fromkeys(post_ids):
        try:
            wanted = bytes.fromhex(text)
        except ValueError:
            wanted = b""
        if len(wanted) * 2 != _ID_DIGITS:
            raise Exit(os.EX_USAGE, f"{text!r} is not a post id: {_ID_DIGITS} hex digits")
        posts = [(account, post) for account in accounts for post in account.state.held().values() if post.id == wanted]
        if not posts:
            raise Exit(os.EX_DATAERR, f"no account has a post {text} that is held")
        found += posts
    return found


def _as_json(account: Account, post: HeldPost) -> dict[str, Any]:
    return {
        "id": post.id.hex(),
        "account": str(account.address),
        "address": post.address,
        "fingerprint": post.sender,
        "domain": post.domain,
        "size": post.size,
        "since": post.time,
        "reason": post.reason,
        "text": post.text,
        "found": post.found,
        "expected": post.expected,
        "decision": post.decision,
    }


def _changed_as_json(account: Account, other: OtherSender) -> dict[str, Any]:
    return {
        "id": None,
        "account": str(account.address),
        "address": other.address,
        "fingerprint": other.sender,
        "count": other.count,
        "since": other.time,
        "reason": "key-changed",
        "found": other.sender,
        "expected": other.expected,
    }


def _stamp(when: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
