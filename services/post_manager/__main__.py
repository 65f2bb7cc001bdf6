"""The `post_manager` command: looks at everything first, then runs the HTTP and the UDP process as one service."""

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import click

from services.post_manager import directory, service
from services.post_manager.commands.accounts import accounts as accounts_command
from services.post_manager.commands.backup import backup
from services.post_manager.commands.cgi_stop import cgi_stop
from services.post_manager.commands.cookies import cookies
from services.post_manager.commands.export import export
from services.post_manager.commands.migrate import migrate
from services.post_manager.commands.restore import restore
from services.post_manager.commands.verify import verify
from services.post_manager.policy import load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.udp.udp_socket import UdpSocket
from stubmail import cli, log, pidfile, wsgi
from stubmail.errors import Exit
from stubmail.supervisor import Child, supervise

SPARE_SECONDS = 5.0  # for what the processes have to do beside draining

_log = logging.getLogger("post_manager")

_EPILOG = """\b
Examples:
  post_manager --config stub.conf
  post_manager --check
  post_manager export 00112233445566778899aabbccddeeff | gpg --decrypt

\b
The accounts file (TOML), read again on SIGHUP:
  [accounts.alice]
  address = "alice@alpha.example"
  fingerprint = "…"                 the whole one, 40 or 64 hex digits
  quota_posts = 10000               and quota_bytes, max_post, lifetime_days, rate, if need be
or: post_manager accounts add alice --address alice@alpha.example --fingerprint …
"""


@click.group("post_manager", epilog=_EPILOG, invoke_without_command=True)
@cli.common_options
@click.pass_context
@cli.one_sentence
def main(context: click.Context, config: Path, check: bool, verbose: bool) -> None:
    """Keep a domain's mail, encrypted, until its recipients fetch it."""
    log.setup(verbose)
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    section, host = service.read(config)
    accounts = load_accounts(section.accounts, section.terms)
    incoming = directory.open_directory(section.spool)
    _try_database(section, check)
    _try_addresses(section)
    if check:
        where = sqlite_path(section.database_url) or "the database server"
        click.echo(f"{host}: {len(accounts)} accounts, {where} is good, {section.listen} is free")
        return
    signal.signal(signal.SIGHUP, lambda number, frame: None)  # the processes read everything when they start
    with pidfile.running(section.pid_file, "a post_manager runs with this spool directory"):
        if leftovers := directory.clean(incoming):
            log.event(_log, "cleaned", directory=incoming, files=leftovers)
        drain_seconds = section.drain_notice_seconds + section.drain_seconds + SPARE_SECONDS
        sys.exit(supervise(_children(section, config, verbose), drain_seconds=drain_seconds))


def _try_database(section: PostManager, check: bool) -> None:
    """Open the database, and prepare its tables; one that is away does not keep the store from coming up."""
    try:
        database = service.open_database(section, 1, prepare=True)
    except service.Away as error:
        if check:
            raise
        service.say_away(error)
        return
    database.close()
    if database.read_only and check:
        raise Exit(os.EX_DATAERR, service.say_damaged(section))
    if database.read_only:
        service.say_damaged(section)


def _try_addresses(section: PostManager) -> None:
    """Find out now, and not in a child that has just started, whether the addresses can be bound, all at once."""
    with contextlib.ExitStack() as listeners:
        for listen in filter(None, (section.listen, section.admin_listen)):
            listeners.enter_context(wsgi.bind(*cli.parse_listen(listen)))
    if section.udp:
        UdpSocket(*cli.parse_listen(section.udp_listen)).close()


def _children(section: PostManager, config: Path, verbose: bool) -> list[Child]:
    options = ["--config", str(config), *(["-v"] if verbose else [])]
    modules = {"http": "services.post_manager.http.server"}
    if section.udp:
        modules["udp"] = "services.post_manager.udp.notifier"
    environment = service.ENVIRONMENT | os.environ
    return [Child(name, [sys.executable, "-m", module, *options], environment) for name, module in modules.items()]


for command in (accounts_command, backup, cgi_stop, cookies, export, migrate, restore, verify):
    main.add_command(command)

if __name__ == "__main__":
    main()
