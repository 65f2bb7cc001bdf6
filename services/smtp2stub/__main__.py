"""The command line of the gateway."""

import logging
import os
import sys
from pathlib import Path

import click

from services.smtp2stub.admin_listener import open_listener
from services.smtp2stub.settings import Smtp2stub
from stubmail import cli, settings
from stubmail.log import event
from stubmail.supervisor import Child, supervise

ROLES = ("receiver", "courier")

_log = logging.getLogger("smtp2stub.admin")

EPILOG = """\b
Examples:
  smtp2stub                             both processes, by ~/.stub/stub.conf
  smtp2stub --check                     would it work?
  smtp2stub --config FILE --role courier
                                        one of the two, for split containers
"""


@click.command(help="Take mail over SMTP and send it as stub mail, or through a smarthost.", epilog=EPILOG)
@click.option("--role", type=click.Choice(ROLES), help="Run only this one of the two processes.")
@click.option(
    "--admin-fd", type=int, hidden=True, help="The socket for admin_listen, from the process that starts both."
)
@cli.common_options
@cli.one_sentence
def main(role: str | None, admin_fd: int | None, config: Path, check: bool, verbose: bool) -> None:
    cli.log.setup(verbose)
    domain, dns, options = cli.load(config, domain=settings.Domain, dns=settings.Dns, smtp2stub=Smtp2stub)
    options.validate()
    host = domain.host or domain.name
    if check:
        from services.smtp2stub.check import check_all

        check_all(domain, dns, options)
    elif role == "receiver":
        from services.smtp2stub.receiver import run as receive  # neither process loads the other's dependencies

        receive(host, options, open_listener(options.admin_listen, admin_fd))
    elif role == "courier":
        from services.smtp2stub.courier_process import run as carry

        carry(host, dns, options, open_listener(options.admin_listen, admin_fd))
    else:
        sys.exit(_run_both(config, verbose, options) or os.EX_OK)


def _run_both(config: Path, verbose: bool, options: Smtp2stub) -> int:
    """Run both processes until SIGTERM; they share the admin listener, so that it is there while one of them is."""
    listener = open_listener(options.admin_listen, None)
    descriptors = () if listener is None else (listener.fileno(),)
    command = [sys.executable, "-m", "services.smtp2stub", "--config", str(config), *["-v"] * verbose]
    if listener is not None:
        address, port = listener.getsockname()[:2]
        event(_log, "listening", address=f"{address}:{port}")
        command += ["--admin-fd", str(listener.fileno())]
    children = [Child(f"smtp2stub.{name}", [*command, "--role", name], pass_fds=descriptors) for name in ROLES]
    return supervise(children, drain_seconds=options.drain_seconds + 5)


if __name__ == "__main__":
    main()
