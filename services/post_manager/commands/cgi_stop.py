"""`post_manager cgi-stop`: ends the UDP process that a CGI program's calls have started."""

import os
import time

import click

from services.post_manager import daemon
from stubmail import cli
from stubmail.errors import Exit

SECONDS = 15.0  # that it may take to end
_POLL = 0.05


@click.command("cgi-stop", epilog="Example: sudo -u www-data post_manager --config /etc/stubmail/stub.conf cgi-stop")
@click.pass_context
@cli.one_sentence
def cgi_stop(context: click.Context) -> None:
    """End the UDP process of a store that runs as a CGI program; the next call starts another, unless udp = false."""
    spool = context.obj.spool
    pid = daemon.stop(spool)
    if pid is None:
        click.echo(f"no UDP process of {spool} runs")
        return
    deadline = time.monotonic() + SECONDS
    while daemon.runs(spool):
        if time.monotonic() > deadline:
            raise Exit(os.EX_TEMPFAIL, f"process {pid} got SIGTERM {SECONDS:.0f} seconds ago and still runs")
        time.sleep(_POLL)
    click.echo(f"process {pid} has ended")
