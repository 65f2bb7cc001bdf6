"""The command line: settings from stub.conf and flags, then serve until told to stop."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from services.pop3d.accounts import load_accounts
from services.pop3d.check import try_everything
from services.pop3d.one_account import OneAccount
from services.pop3d.running import run
from services.pop3d.server import Server
from services.pop3d.settings import Pop3d
from services.pop3d.tls import load_certificate
from stubmail import log, settings
from stubmail.cli import common_options, load, one_sentence

_log = logging.getLogger("pop3d")

EXAMPLES = """\b
Examples:
  pop3d --listen 127.0.0.1:1110 --users users.toml
  pop3d --listen [::]:110 --tls-listen [::]:995 --tls-cert cert.pem --tls-key key.pem --users users.toml
  pop3d --config stub.conf --check
  pop3d -a auth.txt -d Maildir -p 1110     one account, APOP; with -c USER and PASS too
  pop3d -d Maildir -r                      all its messages are new again

\b
The users file (TOML):
  [users.bob]
  password = "{ARGON2ID}$argon2id$…"    or "{SCRAM-SHA-256}…" or "{PLAIN}…"
  maildrop = "mbox:/var/mail/bob"       or "maildir:/home/bob/Maildir"
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", metavar="HOST:PORT", help="POP3 in the clear, with STLS when there is a certificate.")
@click.option("--tls-listen", metavar="HOST:PORT", help="POP3 under TLS from the first byte.")
@click.option("--tls-cert", metavar="FILE", help="The certificate and its chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key (PEM).")
@click.option("--users", metavar="FILE", help="The users file (TOML).")
@click.option("--allow-plain", is_flag=True, default=None, help="Take passwords without TLS from other machines too.")
@click.option("-a", "auth_file", metavar="PATH", type=click.Path(path_type=Path), help="One account: its auth file.")
@click.option("-d", "maildir", metavar="PATH", type=click.Path(path_type=Path), help="That account's Maildir.")
@click.option("-p", "port", metavar="PORT", help="Listen on this port of all addresses.")
@click.option("-c", "clear", is_flag=True, help="Take passwords in the clear too: with -a else only APOP is taken.")
@click.option("-r", "reset", is_flag=True, help="Reset the Maildir, then serve it; without -a that is all.")
@common_options
@one_sentence
def main(
    config: Path,
    check: bool,
    verbose: bool,
    auth_file: Path | None,
    maildir: Path | None,
    port: str | None,
    clear: bool,
    reset: bool,
    **flags: Any,
) -> None:
    """Serve maildrops over POP3. Flags override [pop3d] of the configuration file; with -a and -d none is needed."""
    log.setup(verbose)
    one = OneAccount(auth_file, maildir, port, clear, reset)
    if reset and not one.serves:
        click.echo(one.put_back())
        return
    service = read_settings(config, one.over({key: value for key, value in flags.items() if value is not None}))
    if check:
        try_everything(service)
        return
    if service.warning:
        log.event(_log, "doubtful", level=logging.WARNING, reason=service.warning)
    if service.system_users:
        from services.pop3d.system.keeper import keep

        sys.exit(keep(service))
    users = load_accounts(service)
    if reset:
        click.echo(one.put_back())
    tls = load_certificate(service.tls_cert, service.tls_key)
    run(lambda: Server(service, users, tls), service.sessions)


def read_settings(config: Path, flags: dict[str, Any]) -> Pop3d:
    """Return [pop3d] with ``flags`` over it; no file is needed when they say where to listen and for whom.

    Raises ConfigError.
    """
    named = click.get_current_context().get_parameter_source("config") is ParameterSource.COMMANDLINE
    data: dict[str, Any] = {"pop3d": {"listen": "", "admin_listen": ""}}
    if config.exists() and (named or "auth_file" not in flags):
        data = settings.load_file(config)
    elif named or not flags.keys() & {"users", "auth_file"} or not flags.keys() & {"listen", "tls_listen"}:
        load(config, pop3d=Pop3d)  # says so, with a sample
    data["pop3d"] = {**data.get("pop3d", {}), **flags}
    overridden = {f"STUBMAIL_POP3D_{flag}".upper() for flag in flags}
    for key, other in (("users", "auth_file"), ("auth_file", "users"), ("maildir", "users")):
        if other in flags and key not in flags:  # a flag says whom to serve, whatever is written elsewhere
            data["pop3d"].pop(key, None)
            overridden.add(f"STUBMAIL_POP3D_{key}".upper())
    environ = {key: value for key, value in os.environ.items() if key.removesuffix("__FILE") not in overridden}
    service: Pop3d = settings.read(data, "pop3d", Pop3d, environ)
    if service.system_users and not service.system_domains:
        service = replace(service, system_domains=_domains(data, environ))
    if not service.listen and not service.tls_listen:
        raise settings.ConfigError("[pop3d] listen and tls_listen are both empty: there is nothing to listen on")
    if service.tls_listen and service.tls_cert is None:
        raise settings.ConfigError("[pop3d] tls_listen needs tls_cert and tls_key")
    return service


def _domains(data: dict[str, Any], environ: dict[str, str]) -> list[str]:
    """Return what [domain], which pop3d can do without, says whose mail this is. Raises ConfigError."""
    if "domain" not in data and "STUBMAIL_DOMAIN_NAME" not in environ:
        return []
    return [settings.read(data, "domain", settings.Domain, environ).name]


if __name__ == "__main__":
    main()
