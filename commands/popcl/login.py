"""Logging in: under TLS with the password, in the clear without showing it wherever the server can do that."""

import secrets
from collections.abc import Callable

from commands.popcl import mechanisms
from commands.popcl.protocol import Status
from commands.popcl.session import Session, is_temporary, refusal
from stubmail.auth_file import Credentials
from stubmail.errors import PermanentError


class LoginRefused(PermanentError):
    """The server does not take this name and password."""


def log_in(session: Session, credentials: Credentials, warn: Callable[[str], None]) -> str:
    """Log in and return how: the name of a mechanism. Raises LoginRefused, StubmailError and MechanismError.

    Under TLS the password is proven where the server can bind that to the TLS connection, and is not shown to one that
    will not after all. Without TLS it is shown only to a server that offers nothing better, or refuses it; the user who
    asked for neither POP3S nor STLS is warned, unless the server is on this machine.
    """
    encrypted = session.connection.encrypted
    offered = session.capabilities.get("SASL", ())
    name, password = credentials.username, credentials.password
    if encrypted and (bound := _bound(session, offered, credentials, warn)):
        return bound
    if not encrypted:
        hidden = _hidden(session, offered, credentials)
        if hidden is not None and hidden[1].ok:
            return hidden[0]
        if not session.connection.is_loopback:
            warn(_shown(session))
    if encrypted and session.capabilities and "USER" not in session.capabilities and "PLAIN" in offered:
        return _done(session.authenticate(mechanisms.Plain(name, password)), "PLAIN")
    status = session.command(f"USER {name}")
    if status.ok:
        status = session.command(f"PASS {password}")
    return _done(status, "USER")


def _bound(session: Session, offered: tuple[str, ...], credentials: Credentials, warn: Callable[[str], None]) -> str:
    """Log in by SCRAM-SHA-256-PLUS and return how; an empty text when the server does not offer it.

    One that refuses it may know other types of binding alone, or see another channel than ours, with somebody in
    between: it gets SCRAM-SHA-256 without a binding at most, and never the password itself.
    """
    binding = session.connection.binding() if mechanisms.SCRAM_PLUS in offered else None
    if binding is None:
        return ""
    scram = mechanisms.Scram(credentials.username, credentials.password, secrets.token_urlsafe(24), binding)
    status = session.authenticate(scram)
    plain_scram = mechanisms.Scram(credentials.username, credentials.password, secrets.token_urlsafe(24))
    if status.ok or is_temporary(status) or _is_decided(status) or plain_scram.name not in offered:
        return _done(status, scram.name)
    warn(f"warning: {session.connection} does not bind the login to this TLS connection")
    return _done(session.authenticate(plain_scram), plain_scram.name)


def _is_decided(status: Status) -> bool:
    """Whether the server says that name or password are wrong (RFC 3206 §4)."""
    return status.text.upper().startswith(b"[AUTH]")


def _hidden(session: Session, offered: tuple[str, ...], credentials: Credentials) -> tuple[str, Status] | None:
    """Try to log in without showing the password; None when the server offers no such way.

    Raises an error when a refusal has nothing to do with the way: the next would be refused as well.
    """
    name, password = credentials.username, credentials.password
    if mechanisms.Scram.name in offered:
        scram = mechanisms.Scram(name, password, secrets.token_urlsafe(24))
        how, status = scram.name, session.authenticate(scram)
    elif line := mechanisms.apop(session.greeting, name, password):
        how, status = "APOP", session.command(line)
    else:
        return None
    if not status.ok and is_temporary(status):
        _done(status, how)
    return how, status


def _done(status: Status, how: str) -> str:
    if status.ok:
        return how
    if is_temporary(status):
        raise refusal(status, "the server does not let us in now")
    text = status.text[:200].decode("ascii", "replace") or "-ERR"
    raise LoginRefused("5.7.8", f"the server does not let us in: {text}")


def _shown(session: Session) -> str:
    hint = "-S would encrypt it" if "STLS" in session.capabilities else "see -T and -S"
    return f"warning: the password goes to {session.connection} in the clear; {hint}"
