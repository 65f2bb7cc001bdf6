"""Options of the subcommands that ask DNS: which resolver, and whether private addresses are all right."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from stubmail import settings
from stubmail.discovery import Resolver
from stubmail.settings import Dns


def resolver_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --config, --resolver and --allow-private; the command receives ``config`` and a ready ``resolver``.

    The options go before [dns] of stub.conf and its environment variables; no such file is needed. Goes below
    cli.one_sentence, since the command may then raise ConfigError.
    """

    @click.option("--resolver", "nameserver", help="ADDRESS:PORT to ask; default: [dns], else /etc/resolv.conf.")
    @click.option("--allow-private", is_flag=True, help="Loopback, private and documentation addresses are all right.")
    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=settings.default_path,
        show_default="$STUB_CONF, else ~/.stub/stub.conf",
        help="The configuration file (TOML).",
    )
    @wraps(function)
    def command(*args: Any, config: Path, nameserver: str | None, allow_private: bool, **kwargs: Any) -> None:
        dns = _read(config)
        dns = replace(dns, resolver=nameserver or dns.resolver, allow_private=allow_private or dns.allow_private)
        function(*args, config=config, resolver=Resolver.from_settings(dns), **kwargs)

    return command


def _read(config: Path) -> Dns:
    try:
        data = settings.load_file(config)
    except settings.MissingConfig:
        data = {}
    return settings.read(data, "dns", Dns)
