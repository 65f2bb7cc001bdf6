"""`stubmail queue`: what waits in the gateway's spool, and what shall become of it."""

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from commands.times import stamp
from stubmail import cli, settings
from stubmail.errors import Exit
from stubmail.queue import DEFAULT_SPOOL, ItemError, Order, Progress, Queue, State, Stored

OBEYED_SECONDS = 3.0  # how long a command waits for the courier
_STATES = ("new", "waiting", "held")  # not tried yet; tried at least once; kept by an order
_SELDOM = ("ret", "envid", "notify", "orcpt")  # what a sender said of notices (RFC 3461 §4), as it came
MAX_HEADER = 64 * 1024  # octets of a message that ``show --header`` reads

_EPILOG = """\b
Examples:
  stubmail queue list
  stubmail queue show 1K0RSDH7FNVKBET
  stubmail queue retry --all            try again now; also releases what was held
  stubmail queue hold 1K0RSDH7FNVKBET
  stubmail queue drop 1K0RSDH7FNVKBET   remove it; its sender is not told
"""


def _of_queue(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which spool it is; the command receives ``spool``, a Queue."""

    @wraps(function)
    def wrapper(config: Path, spool: Path | None, **others: Any) -> None:
        queue = Queue(spool or _spool(config))
        if not queue.incoming.is_dir():
            raise Exit(os.EX_NOINPUT, f"{queue.root} is not a gateway's spool")
        function(queue, **others)

    for option in (
        click.option("--spool", type=click.Path(path_type=Path), help="The spool; default: the configured one."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            default=settings.default_path,
            show_default="$STUB_CONF, else ~/.stub/stub.conf",
            help="The gateway's configuration file (TOML).",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


def _spool(config: Path) -> Path:
    """Return the gateway's spool directory. Raises ConfigError."""
    value = os.environ.get("STUBMAIL_SMTP2STUB_SPOOL") or settings.load_file(config).get("smtp2stub", {}).get("spool")
    return Path(value) if isinstance(value, str) else DEFAULT_SPOOL


@click.group("queue", epilog=_EPILOG)
def queue() -> None:
    """See and steer what waits in the gateway's spool."""


@queue.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only messages in this state.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@cli.one_sentence
@_of_queue
def list_(spool: Queue, states: tuple[str, ...], as_json: bool) -> None:
    """List messages: id, state, when accepted, size, attempts, sender; below, who waits for it and why."""
    held = _held(spool)
    messages = [_describe(spool, stored, held) for stored in spool.messages()]
    messages = [message for message in messages if message["state"] in (states or _STATES)]
    for path in spool.damaged():
        click.echo(f"{path} is damaged: it was set aside, and what it holds is not sent", err=True)
    if as_json:
        click.echo(json.dumps(messages, indent=1))
        return
    for message in messages:
        click.echo("{id}  {state:8}  {accepted}  {size:>10}  {attempts:>3}  {sender}".format_map(message))
        for recipient in message["recipients"]:
            if recipient["state"] == State.WAITING:
                click.echo(f"    {recipient['address']}  {recipient['code']} {recipient['text']}".rstrip())


@queue.command("show")
@click.argument("queue_id", metavar="ID")
@click.option("--header", is_flag=True, help="The message's header as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@cli.one_sentence
@_of_queue
def show(spool: Queue, queue_id: str, header: bool, as_json: bool) -> None:
    """Show all that is known of one message."""
    stored = _find(spool, queue_id)
    message = _describe(spool, stored, _held(spool))
    if header:
        message["header"] = stored.header(MAX_HEADER).partition(b"\r\n\r\n")[0].decode("utf-8", "backslashreplace")
    if as_json:
        click.echo(json.dumps(message, indent=1))
        return
    text = message.pop("header", "")
    recipients = message.pop("recipients")
    for name, value in message.items():
        if value or name not in _SELDOM:
            click.echo(f"{name:9} {value}")
    for recipient in recipients:
        click.echo("recipient {address}  {state} {via} {code} {text}".format_map(recipient).rstrip())
        for name in _SELDOM:
            if value := recipient.get(name):
                click.echo(f"    {name:6} {value}")
    if text:
        click.echo("\n" + text.replace("\r\n", "\n"))


def _ordering(order: Order, done: str) -> None:
    """Add the command that gives an order; ``done`` is what it says of a message."""

    @queue.command(order)
    @click.argument("queue_ids", metavar="[ID...]", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="Every message in the queue.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object: whether it has been done, by id.")
    @cli.one_sentence
    @_of_queue
    def command(spool: Queue, queue_ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
        if bool(queue_ids) == everything:
            raise Exit(os.EX_USAGE, "name messages by their ids, or say --all")
        ids = _all(spool) if everything else _chosen(spool, queue_ids)
        for queue_id in ids:
            if order == "retry":
                spool.obey(queue_id, "hold")
            spool.order(queue_id, order)
        heard = spool.ring()
        left = set() if order == "hold" else _disobeyed(spool, set(ids), order, OBEYED_SECONDS if heard else 0.0)
        if as_json:
            click.echo(json.dumps({queue_id: queue_id not in left for queue_id in ids}, indent=1))
            return
        for queue_id in ids:
            later = f"{order}: noted, for when the courier gets to it"
            click.echo(f"{queue_id}  {later if queue_id in left else done}")

    command.help = {
        "retry": "Try messages again now; releases those that were held.",
        "hold": "Leave messages where they are until further notice.",
        "drop": "Remove messages for good. Their senders are not told.",
    }[order]


_ordering("retry", "is tried again")
_ordering("hold", "held")
_ordering("drop", "dropped")


def _disobeyed(spool: Queue, ids: set[str], order: Order, seconds: float) -> set[str]:
    """Wait until the courier has done what was ordered, or for so long; return those with which it has not."""
    deadline = time.monotonic() + seconds
    while left := ids & {queue_id for queue_id, standing in spool.orders() if standing == order}:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def _all(spool: Queue) -> list[str]:
    return [stored.item.id for stored in spool.messages()]


def _chosen(spool: Queue, queue_ids: Sequence[str]) -> list[str]:
    """Return ids as they are written, each once. Raises Exit when one is not in the queue: then nothing is done."""
    present = set(_all(spool))
    for queue_id in queue_ids:
        if queue_id.upper() not in present:
            raise _absent(queue_id)
    return list(dict.fromkeys(queue_id.upper() for queue_id in queue_ids))


def _find(spool: Queue, queue_id: str) -> Stored:
    for stored in spool.messages():
        if stored.item.id == queue_id.upper():
            return stored
    raise _absent(queue_id)


def _absent(queue_id: str) -> Exit:
    return Exit(os.EX_DATAERR, f"there is no message {queue_id} in the queue")


def _held(spool: Queue) -> set[str]:
    return {queue_id for queue_id, order in spool.orders() if order == "hold"}


def _describe(spool: Queue, stored: Stored, held: set[str]) -> dict[str, Any]:
    item = stored.item
    try:
        progress = spool.progress(item)
    except ItemError:
        progress = Progress.fresh(len(item.recipients))
    recipients = [
        {
            "address": str(recipient.address),
            "state": str(outcome.state),
            "via": outcome.via,
            "code": outcome.code,
            "text": outcome.text,
            "post": recipient.post_id.hex(),
            "notify": recipient.notify,
            "orcpt": recipient.original,
        }
        for recipient, outcome in zip(item.recipients, progress.outcomes, strict=True)
    ]
    return {
        "id": item.id,
        "state": "held" if item.id in held else "waiting" if progress.attempts else "new",
        "accepted": stamp(item.accepted),
        "size": item.size,
        "attempts": progress.attempts,
        "next_try": stamp(progress.next_try) if progress.attempts else "",
        "account": item.account,
        "mail_from": str(item.mail_from) if item.mail_from else "",
        "sender": str(item.sender),
        "ret": item.ret,
        "envid": item.envid,
        "recipients": recipients,
    }
