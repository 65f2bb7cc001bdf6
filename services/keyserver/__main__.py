"""The `keyserver` command: settings, directory, socket, then gunicorn."""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from services.keyserver.app import Counters, UnreadByKeyServer, create_app
from services.keyserver.directory import Directory
from services.keyserver.settings import Keyserver
from stubmail import cli, log, settings, wsgi
from stubmail.counted import counted
from stubmail.errors import Exit
from stubmail.wsgi_worker import PatientWorker

_log = logging.getLogger("keyserver")

_EPILOG = """\b
Examples:
  keyserver --listen 0.0.0.0:11371 --domain alpha.example --keys /var/lib/stubmail/hkp
  keyserver --check
  gpg --keyserver hkp://keys.alpha.example --search-keys alice@alpha.example
"""


@click.command("keyserver", epilog=_EPILOG)
@click.option("--listen", help="HOST:PORT for HKP.")
@click.option("--domain", help="The mail domain whose users' certificates are served.")
@click.option("--keys", help="The directory with one certificate a file.")
@cli.common_options
@cli.one_sentence
def main(listen: str | None, domain: str | None, keys: str | None, config: Path, check: bool, verbose: bool) -> None:
    """Serve the certificates of one domain's users over HKP, to gpg and to stub mail gateways.

    With --listen, --domain and --keys no configuration file is needed; each of them goes before [keyserver] of it.
    """
    log.setup(verbose)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.EX_OK))  # until gunicorn takes over: reading may take seconds
    section = _settings(config, {"listen": listen, "domain": domain, "keys": keys})
    host, port = cli.parse_listen(section.listen)
    directory = Directory(section.keys, section.domain)
    count = _open(directory, section)
    listener = wsgi.bind(host, port)
    if check:
        listener.close()
        click.echo(f"{section.domain}: {counted(count, 'certificate')} in {section.keys}, {host}:{port} is free")
        return
    host, port = listener.getsockname()[:2]
    log.event(_log, "listening", section.domain, address=f"{host}:{port}", certificates=count)
    wsgi.serve(
        partial(_make_app, directory, section),
        listener,
        threads=section.threads,
        limit_request_line=2048,
        limit_request_fields=50,
    )


def _make_app(directory: Directory, section: Keyserver) -> wsgi.WsgiApp:
    """In the worker process: return the application."""
    counters = Counters()
    PatientWorker.unread = UnreadByKeyServer(counters)
    return create_app(directory, section.networks, read_only=section.read_only, counters=counters)


def _settings(config: Path, flags: Mapping[str, str | None]) -> Keyserver:
    """Read [keyserver] with the command line's values in place of the file's and the environment's."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        data = settings.load_file(config)
    except settings.MissingConfig:
        if len(given) < len(flags):
            cli.load(config, keyserver=Keyserver)  # says so, with a sample
        data = {}
    if isinstance(section := data.get("keyserver", {}), dict):
        data["keyserver"] = section | given
    overridden = {f"STUBMAIL_KEYSERVER_{name}{suffix}".upper() for name in given for suffix in ("", "__FILE")}
    environ = {name: value for name, value in os.environ.items() if name not in overridden}
    result = settings.read(data, "keyserver", Keyserver, environ)
    return result if result.domain else replace(result, domain=settings.read(data, "domain", settings.Domain).name)


def _open(directory: Directory, section: Keyserver) -> int:
    try:
        count = len(directory.current())
    except OSError as error:
        raise Exit(os.EX_NOINPUT, f"cannot read the keys directory {section.keys}: {error.strerror}") from error
    if not section.read_only and not os.access(section.keys, os.W_OK | os.X_OK):
        raise Exit(
            os.EX_CANTCREAT,
            f"cannot write to the keys directory {section.keys}; change that or set read_only = true in [keyserver]",
        )
    return count


if __name__ == "__main__":
    main()
