"""The command line of the puller."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

import click

from services.http2mbox.settings import DRAIN_SECONDS, MIN_INTERVAL, Http2mbox
from stubmail import cli, settings
from stubmail.address import Address, AddressError
from stubmail.errors import Exit
from stubmail.listener import bind

if TYPE_CHECKING:
    from services.http2mbox.accounts import Accounts
    from services.http2mbox.process import Process

TURN = 0.02  # seconds for a thread at work while others wait: each has enough at hand, and to change takes time
GARBAGE = 10_000  # new objects after which Python looks for it: batches of posts hold many, and none of it

EPILOG = """\b
Examples:
  http2mbox --once                      fetch what waits, by ~/.stub/stub.conf
  http2mbox --once --quiet              the same from cron
  http2mbox --interval 60               ask every minute until told to stop
  http2mbox --dry-run --account bob@beta.example
                                        what would be fetched?

\b
Exit status of a single round: 0 new mail was delivered, 1 none waited, 75 trouble that another try may mend,
77 somebody uses another key than the keyring's; else sysexits.
"""


@click.command(help="Fetch, verify and deliver the mail that waits with its senders.", epilog=EPILOG)
@click.option("--account", "accounts", multiple=True, metavar="ADDR", help="Only this account; may be repeated.")
@click.option("--once", is_flag=True, help="One round, then end: the default unless stub.conf has an interval.")
@click.option("--interval", type=float, metavar="SECONDS", help="Begin a round so often, until SIGTERM.")
@click.option("--full", is_flag=True, help="Ask every store in full, whatever it says by UDP (first round).")
@click.option("--keep", is_flag=True, help="Do not acknowledge: the mail stays at the stores, too.")
@click.option("--dry-run", is_flag=True, help="Only count what would be fetched; write nothing.")
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
@cli.common_options
@cli.one_sentence
def main(
    accounts: tuple[str, ...],
    once: bool,
    interval: float | None,
    full: bool,
    keep: bool,
    dry_run: bool,
    quiet: bool,
    config: Path,
    check: bool,
    verbose: bool,
) -> None:
    cli.log.setup(verbose)
    if quiet:
        logging.getLogger().setLevel(logging.WARNING)
    dns, options = cli.load(config, dns=settings.Dns, http2mbox=Http2mbox)
    seconds = _interval(once or dry_run, interval, options)
    # A short run takes less time than to read the modules for it: so they are read when they are needed, and not looked
    # through for garbage meanwhile, of which they hold none.
    gc.disable()
    from services.http2mbox.accounts import Accounts
    from services.http2mbox.pull import Limits

    wanted = Accounts(options, _addresses(accounts), read_only=dry_run or check)
    limits = Limits(options.max_post, options.full_check_seconds, keep, dry_run)
    try:
        with _imported_meanwhile("services.http2mbox.process"):
            if not check:
                wanted.reload()
                wanted.prepare()
        from services.http2mbox.counters import Counters
        from services.http2mbox.process import Process
        from stubmail.discovery import Resolver

        _all_is_read()
        resolver = Resolver.from_settings(dns)
        if check:
            from services.http2mbox.check import try_everything

            try_everything(options, resolver, wanted, options.admin_listen if seconds else "")
            return
        if not list(wanted):
            raise next(iter(wanted.failures.values()))
        wanted.log_failures()
        with closing(Counters(options.state if seconds else None)) as counters:
            process = Process(options, resolver, wanted, limits, counters)
            if seconds:
                _keep_on(process, seconds, full, options.admin_listen)
            else:
                _once(process, full or dry_run, quiet)
        if not dry_run:
            wanted.save()
        status = _conclude(process, wanted, dry_run=dry_run, quiet=quiet)
    finally:
        wanted.close(DRAIN_SECONDS)
    _exit(0 if seconds else status)


def _all_is_read() -> None:
    gc.freeze()  # what the modules hold is there for good, and need not be looked through again and again
    gc.set_threshold(GARBAGE)
    sys.setswitchinterval(TURN)
    gc.enable()


def _keep_on(process: "Process", seconds: float, full: bool, admin_listen: str) -> None:
    import asyncio

    listener = bind(*cli.parse_listen(admin_listen)) if admin_listen else None
    with listener or nullcontext():
        asyncio.run(process.keep_on(seconds, full=full, listener=listener))


def _once(process: "Process", full: bool, quiet: bool) -> None:
    import asyncio

    from services.http2mbox.progress import for_terminal

    asyncio.run(process.once(full=full, progress=for_terminal(sys.stderr, quiet)))


@contextmanager
def _imported_meanwhile(name: str) -> Iterator[None]:
    """Import a module, and all that it needs, while GnuPG is waited for: both take their time."""
    thread = Thread(target=import_module, args=(name,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _interval(once: bool, interval: float | None, options: Http2mbox) -> float:
    """Return the seconds between rounds, 0 for a single one. Raises Exit."""
    if once and interval is not None:
        raise Exit(os.EX_USAGE, "--once and --interval exclude each other")
    if interval is not None and not interval >= MIN_INTERVAL:
        raise Exit(os.EX_USAGE, f"--interval must be at least {MIN_INTERVAL} seconds")
    return 0.0 if once else options.interval_seconds if interval is None else interval


def _addresses(texts: tuple[str, ...]) -> list[Address]:
    try:
        return list(dict.fromkeys(Address.parse(text) for text in texts))
    except AddressError as error:
        raise Exit(os.EX_USAGE, str(error)) from error


def _conclude(process: "Process", accounts: "Accounts", *, dry_run: bool, quiet: bool) -> int:
    """Print the summary and return the exit status of a single round."""
    report = process.puller.report
    report.failed.update(accounts.failures)
    standings = accounts.standings()
    if not quiet:
        click.echo(report.summary(standings, dry_run=dry_run))
    return report.status(standings, dry_run=dry_run)


def _exit(status: int) -> NoReturn:
    # All that must be whole is closed. The interpreter's own end is no place for foreign code to come back to, where
    # threads still wait for the network; and to take everything apart takes as long as to deliver a hundred messages.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
