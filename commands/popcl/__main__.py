"""The command line of popcl."""

import logging
import math
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from commands.popcl.connection import CertificatesError, Connection, NoHost, Untrusted, tls_context
from commands.popcl.fetch import Fetcher, Outcome, Progress, Wishes, nothing
from commands.popcl.login import LoginRefused, log_in
from commands.popcl.mechanisms import MechanismError
from commands.popcl.out_dir import CannotCreate, OutDir
from commands.popcl.protocol import ProtocolError
from commands.popcl.session import Limits, Session
from stubmail import __version__, auth_file, cli, log
from stubmail.auth_file import Credentials
from stubmail.errors import Exit, StubmailError

PORT, TLS_PORT = 110, 995
_STATUS: dict[type[StubmailError], int] = {
    NoHost: os.EX_NOHOST,
    Untrusted: os.EX_NOPERM,
    LoginRefused: os.EX_NOPERM,
    CertificatesError: os.EX_NOINPUT,
    CannotCreate: os.EX_CANTCREAT,
}
_EPILOG = """\b
Examples:
  popcl pop.example.com -a auth -o mail -T
  popcl pop.example.com -a auth -o mail -S -c ca.pem -n
  popcl localhost -p 1110 -a auth -o mail -d

\b
The auth file:
  username = bob
  password = secret

Exit status: 0 all was done; 64 a wrong command line; 66 a file cannot be read; 68 no such host; 69 the server refuses
something; 73 OUT_DIR cannot be written to; 75 trouble that may pass, and messages that the server refused; 76 the
server does not keep to POP3; 77 the certificate is not to be trusted, or the login was refused; 78 the auth file is
not in its form.
"""

logger = logging.getLogger("popcl")


@click.command("popcl", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("server")
@click.option(
    "-a", "auth", metavar="AUTH_FILE", type=click.Path(path_type=Path), required=True, help="Name and password."
)
@click.option(
    "-o", "out_dir", metavar="OUT_DIR", type=click.Path(path_type=Path), required=True, help="Where the messages go."
)
@click.option(
    "-p", "port", metavar="PORT", type=click.IntRange(1, 65_535), help=f"Port; default: {PORT}, with -T {TLS_PORT}."
)
@click.option("-T", "pop3s", is_flag=True, help="POP3S: TLS from the beginning.")
@click.option("-S", "stls", is_flag=True, help="Go over to TLS with STLS.")
@click.option(
    "-c", "file", metavar="CERT_FILE", type=click.Path(path_type=Path), help="Trust these certificates (PEM)."
)
@click.option(
    "-C", "directory", metavar="CERT_DIR", type=click.Path(path_type=Path), help="Trust those in a directory."
)
@click.option("-d", "delete", is_flag=True, help="Delete at the server what was fetched.")
@click.option("-n", "new_only", is_flag=True, help="Only messages whose Message-ID OUT_DIR does not have.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=86_400),
    default=180.0,
    show_default=True,
    help="How long the server may be silent.",
)
@click.option("--check", is_flag=True, help="Log in, count the messages, fetch nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@cli.one_sentence
def main(
    server: str,
    auth: Path,
    out_dir: Path,
    port: int | None,
    pop3s: bool,
    stls: bool,
    file: Path | None,
    directory: Path | None,
    delete: bool,
    new_only: bool,
    timeout: float,
    check: bool,
    verbose: bool,
) -> None:
    """Fetch mail from SERVER by POP3 into OUT_DIR, one file a message, named after its Message-ID."""
    if pop3s and stls:
        raise click.UsageError("-T and -S exclude each other: TLS begins either at once or with STLS.")
    if (file or directory) and not (pop3s or stls):
        raise click.UsageError("-c and -C are for TLS: add -T or -S.")
    host = server.removeprefix("[").removesuffix("]")
    if not host.strip("."):
        raise click.UsageError("SERVER is a host name or an address.")
    if math.isnan(timeout):
        raise click.UsageError("--timeout takes a number of seconds.")
    if verbose:
        log.setup(verbose=True)
    with _translated():
        credentials, exposed = auth_file.read(auth)
        if exposed:
            _warn(f"warning: others may read {auth}: chmod 600 would change that")
        context = tls_context(file, directory) if pop3s or stls else None
        limits = Limits(silence=timeout, reply=2 * timeout)
        with (
            OutDir(out_dir) as out,
            Connection(host, port or (TLS_PORT if pop3s else PORT), timeout) as peer,
        ):
            session = _opened(peer, limits, context, stls)
            _log_in(session, credentials)
            if check:
                _check(session, out)
            else:
                _fetch(session, out, Wishes(new_only, delete))


def _opened(peer: Connection, limits: Limits, context: ssl.SSLContext | None, stls: bool) -> Session:
    """Return a session with its greeting behind it, and with TLS if that was asked for."""
    if context is not None and not stls:
        peer.start_tls(context, limits.silence)
    session = Session(peer, limits)
    if context is not None and stls:
        session.secure(lambda: peer.start_tls(context, limits.silence))
    session.ask_capabilities()
    return session


def _log_in(session: Session, credentials: Credentials) -> None:
    how = log_in(session, credentials, _warn)
    log.event(logger, "logged in", str(session.connection), by=how, tls=session.connection.encrypted)


def _check(session: Session, out: OutDir) -> None:
    fetcher = Fetcher(session, out)
    fetcher.leave()
    click.echo(f"{fetcher.count} message{'' if fetcher.count == 1 else 's'} at the server")


def _fetch(session: Session, out: OutDir, wishes: Wishes) -> None:
    """Fetch, and say in any case how many messages there are now. Raises Exit when the server refused some."""
    fetcher = Fetcher(session, out)
    try:
        with _progress() as progress:
            fetcher.run(wishes, progress)
    finally:
        click.echo(_report(fetcher.outcome, wishes))
    for failure in fetcher.outcome.failures:
        _warn(failure)
    if fetcher.outcome.failures:
        raise Exit(os.EX_TEMPFAIL, f"{len(fetcher.outcome.failures)} times the server refused a message")


def _report(outcome: Outcome, wishes: Wishes) -> str:
    """The line with the counts: ``2 new messages downloaded, 2 deleted``."""
    kind = "new message" if wishes.new_only else "message"
    text = f"{outcome.downloaded} {kind}{'' if outcome.downloaded == 1 else 's'} downloaded"
    return f"{text}, {outcome.deleted} deleted" if wishes.delete else text


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on standard error if that is a terminal, and none otherwise."""
    if not sys.stderr.isatty():
        yield nothing
        return
    with click.progressbar(length=1, label="Fetching", file=sys.stderr) as bar:

        def progress(octets: int, total: int) -> None:
            bar.length = total or None
            bar.update(octets)

        yield progress


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors into the exit statuses that --help lists."""
    try:
        yield
    except ProtocolError as error:
        raise Exit(os.EX_PROTOCOL, str(error)) from error
    except MechanismError as error:
        raise Exit(os.EX_PROTOCOL, str(error)) from error
    except StubmailError as error:
        if type(error) in _STATUS:
            raise Exit(_STATUS[type(error)], error.text) from error
        raise


def _warn(text: str) -> None:
    click.echo(f"popcl: {text}", err=True)


if __name__ == "__main__":
    main(prog_name="popcl")
