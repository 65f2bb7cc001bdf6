"""Options of the subcommands that work on an account's keyring: whose it is, or where."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from stubmail import settings
from stubmail.errors import Exit
from stubmail.keyring import Keyring
from stubmail.settings import ConfigError
from stubmail.users import User, load_users

_SECTIONS = ("http2mbox", "smtp2stub")  # whose users file has GnuPG homes


@dataclass(frozen=True, slots=True)
class Home:
    """One keyring and what to call it: the account's address, else its directory."""

    name: str
    keyring: Keyring


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config; the command receives ``config``."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=settings.default_path,
        show_default="$STUB_CONF, else ~/.stub/stub.conf",
        help="The configuration file (TOML).",
    )(function)


def keyring_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add --account, --gnupghome and --config; the command receives ``homes``, one Home at least, and ``config``.

    Goes below cli.one_sentence, since reading them may raise Exit.
    """

    @config_option
    @click.option("--account", metavar="ADDRESS", help="Whose keyring; all accounts of the users file otherwise.")
    @click.option(
        "--gnupghome",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="A keyring by its directory; no configuration is needed.",
    )
    @wraps(function)
    def command(*args: Any, config: Path, account: str | None, gnupghome: Path | None, **kwargs: Any) -> None:
        if gnupghome is not None:
            homes = [Home(str(gnupghome), Keyring(gnupghome))]
        else:
            homes = [
                Home(str(user.address), Keyring(user.gnupghome))
                for user in chosen(users_file(config), account)
                if user.gnupghome is not None
            ]
        if not homes:
            raise ConfigError("no account has a gnupghome")
        function(*args, homes=homes, config=config, **kwargs)

    return command


def only_one(homes: list[Home]) -> Home:
    """Return the one keyring that a command works on. Raises Exit when the user has to choose."""
    if len(homes) > 1:
        raise Exit(os.EX_USAGE, f"say whose keyring with --account: {', '.join(home.name for home in homes)}")
    return homes[0]


def users_file(config: Path) -> Path:
    """Return the users file that puller or gateway read. Raises ConfigError."""
    data = settings.load_file(config)
    for section in _SECTIONS:
        table = data.get(section)
        named = os.environ.get(f"STUBMAIL_{section}_USERS".upper()) or (
            table.get("users") if isinstance(table, dict) else None
        )
        if isinstance(named, str):
            return Path(named)
    raise ConfigError(f"{config} names no users file in [http2mbox] or [smtp2stub]")


def chosen(path: Path, account: str | None) -> list[User]:
    """Return the account of this name or address; all of the users file when none is given. Raises Exit."""
    users = load_users(path)
    if account is None:
        return list(users)
    user = users.find(account)
    if user is None:
        raise Exit(os.EX_NOUSER, f"{path} has no account {account}")
    return [user]
