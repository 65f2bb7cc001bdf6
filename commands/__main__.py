"""The `stubmail` command: subcommands are loaded only when they are called."""

import os
from importlib import import_module

import click

from stubmail import __version__

click.UsageError.exit_code = os.EX_USAGE  # as in stubmail.cli, which only subcommands load

# name: (module, attribute, the line that --help shows)
_COMMANDS = {
    "contacts": ("commands.contacts", "contacts", "See who else has mail waiting for you; accept or refuse them."),
    "cookies": ("commands.cookies", "cookies", "Forget UDP cookies, so that the next pull asks in full."),
    "demo": ("commands.demo", "demo", "Run the whole system on loopback and watch mail cross two domains."),
    "dns": ("commands.dns", "dns", "Render the records to publish, and check what is published."),
    "domains": ("commands.domains", "domains", "See which domains have offered stub mail; forget some."),
    "held": ("commands.held", "held", "See what mail was held back and why; release or drop it."),
    "keys": ("commands.keys", "keys", "List, show, import, refresh and accept certificates."),
    "outbox": ("commands.outbox", "outbox", "See which of your mail waits or was fetched; withdraw it."),
    "provision": ("commands.provision", "provision_", "Make keys and accounts for a domain."),
    "queue": ("commands.queue", "queue", "See and steer what waits in the gateway's spool."),
    "trace": ("commands.trace", "trace", "Show how mail for an address would travel."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.command(cls=_Lazy, epilog="Try: stubmail demo, stubmail trace bob@beta.example")
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
def main() -> None:
    """Mail that stays, encrypted, with its sender until the recipient fetches it."""


if __name__ == "__main__":
    main()
