"""The command line of the gateway."""

import os
import sys
from pathlib import Path

import click

from services.smtp2stub.settings import Smtp2stub
from stubmail import cli, settings
from stubmail.supervisor import Child, supervise

ROLES = ("receiver", "courier")

EPILOG = """\b
Examples:
  smtp2stub                             both processes, by ~/.stub/stub.conf
  smtp2stub --check                     would it work?
  smtp2stub --config FILE --role courier
                                        one of the two, for split containers
"""


@click.command(help="Take mail over SMTP and send it as stub mail, or through a smarthost.", epilog=EPILOG)
@click.option("--role", type=click.Choice(ROLES), help="Run only this one of the two processes.")
@cli.common_options
@cli.one_sentence
def main(role: str | None, config: Path, check: bool, verbose: bool) -> None:
    cli.log.setup(verbose)
    domain, dns, options = cli.load(config, domain=settings.Domain, dns=settings.Dns, smtp2stub=Smtp2stub)
    options.validate()
    host = domain.host or domain.name
    if check:
        from services.smtp2stub.check import check_all

        check_all(domain, dns, options)
    elif role == "receiver":
        from services.smtp2stub.receiver import run as receive  # neither process loads the other's dependencies

        receive(host, options)
    elif role == "courier":
        from services.smtp2stub.courier_process import run as carry

        carry(host, dns, options)
    else:
        command = [sys.executable, "-m", "services.smtp2stub", "--config", str(config), *["-v"] * verbose]
        children = [Child(f"smtp2stub.{name}", [*command, "--role", name]) for name in ROLES]
        sys.exit(supervise(children, drain_seconds=options.drain_seconds + 5) or os.EX_OK)


if __name__ == "__main__":
    main()
