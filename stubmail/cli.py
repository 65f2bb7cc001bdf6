"""What every command line has in common: --config, --check, --version, -v, sysexits and one-sentence errors."""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from stubmail import __version__, log, settings
from stubmail.errors import Exit, StubmailError, TemporaryError, one_line

P = ParamSpec("P")

click.UsageError.exit_code = os.EX_USAGE  # of sysexits.h, as all our statuses are; click's own is 2

_LISTEN = re.compile(r"(?:(?P<host>[^\s:\[\]]+)|\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\])(?::(?P<port>[0-9]{1,5}))?")


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all services share; the command receives ``config: Path``, ``check``, ``verbose``."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Log debug lines as well."),
        click.option("--check", is_flag=True, help="Read the configuration, try every dependency, say what is wrong."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            default=settings.default_path,
            show_default="$STUB_CONF, else ~/.stub/stub.conf",
            help="The configuration file (TOML).",
        ),
        click.version_option(__version__, "--version", message="%(prog)s %(version)s"),
    ):
        function = option(function)
    return function


def load(path: Path, **sections: type[Any]) -> list[Any]:
    """Read the named sections of stub.conf, in order. A missing file prints a sample and exits 78 (contract)."""
    try:
        data = settings.load_file(path)
    except settings.MissingConfig as error:
        click.echo("\n".join(settings.sample(name, cls) for name, cls in sections.items()), nl=False)
        text = f"{error.text}; put the sample shown on standard output there and fill it in"
        raise settings.ConfigError(text) from None
    return [settings.read(data, name, cls) for name, cls in sections.items()]


def one_sentence(function: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors a user can act on into one sentence on standard error and an exit status from sysexits.h."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        called = Path(sys.argv[0])
        program = called.parent.name if called.name == "__main__.py" else called.name  # python -m services.pop3d
        try:
            function(*args, **kwargs)
        except Exit as error:
            click.echo(f"{program}: {error.text}", err=True)
            sys.exit(error.status)
        except StubmailError as error:
            click.echo(f"{program}: {error.text}", err=True)
            sys.exit(os.EX_TEMPFAIL if isinstance(error, TemporaryError) else os.EX_UNAVAILABLE)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough: click ends quietly
        except PermissionError as error:
            click.echo(f"{program}: {one_line(str(error.filename or 'the operation'))}: permission denied", err=True)
            sys.exit(os.EX_NOPERM)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            what = error.strerror or str(error) or type(error).__name__
            click.echo(f"{program}: {one_line(where + what)}", err=True)
            sys.exit(os.EX_OSERR)
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapper


def parse_listen(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``[V6]:PORT``; with ``default_port`` the port may be left out. Raises ConfigError."""
    match = _LISTEN.fullmatch(text)
    port = int(match["port"] or (default_port if default_port is not None else -1)) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise settings.ConfigError(f"{text!r} is not HOST:PORT")
    return match["host"] or match["v6"], port


def listening_error(error: OSError, host: str, port: int) -> Exit:
    """Return the error to raise when a socket cannot be bound: which address it was, and why not."""
    status = os.EX_NOPERM if isinstance(error, PermissionError) else os.EX_UNAVAILABLE
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Exit(status, f"cannot listen on {where}: {error.strerror or error}")


__all__ = ["common_options", "listening_error", "load", "log", "one_sentence", "parse_listen"]
