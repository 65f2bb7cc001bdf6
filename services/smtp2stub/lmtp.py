"""LMTP (RFC 2033), for the domain's own mail server on this machine: SMTP's dialog with a reply for each recipient.

Whoever can connect is believed to be that server, and need not log in: a Unix socket has permissions, and TCP is for
loopback only. It may hand over mail of the domain's accounts, not of strangers: a post is signed with its author's key.
"""

import asyncio
import ipaddress
import os
import socket
from pathlib import Path

from services.smtp2stub.acceptance import LOCAL, Acceptance
from services.smtp2stub.replies import enhance
from services.smtp2stub.session import Dialog
from services.smtp2stub.transaction import Transaction
from stubmail.cli import parse_listen
from stubmail.errors import Exit
from stubmail.listener import BACKLOG, bind
from stubmail.settings import ConfigError

SMTP_PORT = 25

_NOT_SPOKEN = ("smtp_HELO", "smtp_EHLO", "smtp_STARTTLS", "smtp_AUTH")


class LmtpDialog(Dialog):
    """What is said on a connection over LMTP."""

    def __init__(self, acceptance: Acceptance, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(acceptance, None, loop, implicit_tls=False)
        self.__ident__ = "LMTP stubmail"

    def __dir__(self) -> list[str]:
        return _COMMANDS

    @property
    def may_log_in(self) -> bool:
        return False

    @property
    def trusted(self) -> bool:
        return True

    def count_as(self, address: str) -> str:
        return LOCAL

    async def check_helo_needed(self, helo: str = "LHLO") -> bool:
        assert self.session is not None
        if self.session.host_name:
            return False
        await self.push("503 5.5.1 say LHLO first")
        return True

    async def smtp_LHLO(self, arg: str | None) -> None:
        await super().smtp_EHLO(arg)

    async def answer(self, transaction: Transaction, reply: str) -> None:
        """Say what became of the message once for each RCPT that was taken (RFC 2033 §4.2)."""
        line = enhance(reply)
        for _ in transaction.taken:
            self.acceptance.counters.replied(line)
        await self.push("\r\n".join([line] * len(transaction.taken)).encode())

    def protocol(self, transaction: Transaction) -> str:
        return "UTF8LMTP" if transaction.parameters.utf8 else "LMTP"


_COMMANDS = [name for name in dir(LmtpDialog) if name.startswith("smtp_") and name not in _NOT_SPOKEN]


def parse_lmtp_listen(text: str) -> Path | tuple[str, int]:
    """Return the path or the loopback address that [smtp2stub] lmtp_listen names. Raises ConfigError."""
    if text.startswith("/"):
        return Path(text)
    host, port = parse_listen(text)
    if port == SMTP_PORT:
        raise ConfigError(f"[smtp2stub] lmtp_listen must not be on port {SMTP_PORT}, which is SMTP's (RFC 2033 5)")
    if not _is_loopback(host):
        raise ConfigError(f"[smtp2stub] lmtp_listen must be a path or on loopback, where nobody else is: not {text!r}")
    return host, port


def listening_socket(text: str) -> socket.socket:
    """Return the socket to serve LMTP on; a Unix socket is for its owner and group. Raises Exit."""
    place = parse_lmtp_listen(text)
    if isinstance(place, tuple):
        return bind(*place)
    listener = socket.socket(socket.AF_UNIX)
    try:
        if place.is_socket():  # a predecessor's; the spool's lock says that he is gone
            place.unlink()
        mask = os.umask(0o117)
        try:
            listener.bind(str(place))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Exit(os.EX_UNAVAILABLE, f"cannot listen on {place}: {error.strerror or error}") from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
