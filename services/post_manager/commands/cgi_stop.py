"""`post_manager cgi-stop`: ends the UDP process that a CGI program's calls have started."""

import os
import time

import click

from services.post_manager.commands.section import pass_section
from services.post_manager.settings import PostManager
from services.post_manager.udp import daemon
from stubmail import cli
from stubmail.errors import Exit

SECONDS = 15.0  # that it may take to end
_POLL = 0.05


@click.command("cgi-stop", epilog="Example: sudo -u www-data post_manager --config /etc/stubmail/stub.conf cgi-stop")
@cli.one_sentence
@pass_section
def cgi_stop(section: PostManager) -> None:
    """End the UDP process of a store that runs as a CGI program; the next call starts another, unless udp = false."""
    spool = section.spool
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
