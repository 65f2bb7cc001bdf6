"""One client's connection, below the dialog: aiosmtpd's protocol with our limits, time-outs and last words."""

import asyncio
import logging
import ssl
from collections import defaultdict
from typing import Any, AnyStr

from aiosmtpd.smtp import SMTP

from services.smtp2stub.acceptance import Acceptance
from services.smtp2stub.replies import enhance
from stubmail.limits import is_loopback, network
from stubmail.log import event
from stubmail.users import User

COMMAND_LINE = 2048  # octets: 512 (RFC 5321 §4.5.3.1.4) and what SMTPUTF8 and parameters add
AUTH_LINE = 12_288  # octets, RFC 4954 §4
LAST_WORD_SECONDS = 5.0  # to take a last reply in
MAX_ERRORS = 200  # refusals on one connection without a message being accepted

# Commands that a mail program has no reason to repeat for ever; the others are limited by their own rules.
_CALLS = {"*": 10**9, "NOOP": 1000, "EHLO": 20, "HELO": 20, "LHLO": 20, "VRFY": 100, "HELP": 100, "EXPN": 100}

_log = logging.getLogger("smtp2stub.receiver")


class Connection(SMTP):
    """The server's end of a connection.

    ``hooks`` is what aiosmtpd asks at each command. ``implicit_tls``: the connection is under TLS from the first octet.
    """

    command_size_limit = COMMAND_LINE
    line_length_limit = AUTH_LINE

    def __init__(
        self,
        hooks: object,
        acceptance: Acceptance,
        tls: ssl.SSLContext | None,
        loop: asyncio.AbstractEventLoop,
        implicit_tls: bool,
    ) -> None:
        self.acceptance = acceptance
        self._implicit_tls = implicit_tls
        self._entered = ""  # the network that this connection is counted for
        self._failed_logins = 0
        self._errors = 0  # refusals since the last message that was accepted
        self.busy = False  # a message is being read or stored
        self.user: User | None = None  # whom the client has logged in as
        super().__init__(
            hooks,
            data_size_limit=acceptance.options.size_limit,
            enable_SMTPUTF8=True,
            hostname=acceptance.host,
            ident="ESMTP stubmail",
            tls_context=None if implicit_tls else tls,
            timeout=acceptance.options.timeout_seconds,
            auth_require_tls=not (implicit_tls or acceptance.options.allow_plain_auth),
            command_call_limit=_CALLS,
            loop=loop,
        )
        # aiosmtpd keeps one dictionary for all connections and lets it grow with each EHLO
        self.command_size_limits = defaultdict(lambda: COMMAND_LINE, AUTH=AUTH_LINE)

    @property
    def peer(self) -> str:
        """The client's IP address; "unknown" for one on a Unix socket."""
        return _address(self.session.peer if self.session else None)

    @property
    def over_tls(self) -> bool:
        """Whether nobody listens in."""
        return self._implicit_tls or self._tls_protocol is not None

    @property
    def may_log_in(self) -> bool:
        """Whether a password may be sent over this connection."""
        return self.over_tls or not self._auth_require_tls

    @property
    def trusted(self) -> bool:
        """Whether the client may send without a login."""
        return self.acceptance.options.trust_loopback and is_loopback(self.peer)

    def count_as(self, address: str) -> str:
        """Return what the connection is counted as, next to others from the same place."""
        return network(address)

    def connection_made(self, transport: Any) -> None:
        if self._original_transport is None:
            address = _address(transport.get_extra_info("peername"))
            name = self.count_as(address)
            refusal = self.acceptance.enter(self, name)
            if refusal:
                event(_log, "refused", address=address, reason=refusal)
                self.acceptance.counters.add("connections refused")
                code = "4.3.2" if self.acceptance.draining else "4.7.0"
                transport.write(f"421 {code} {self.hostname} {refusal}\r\n".encode())
                transport.close()
                return
            self._entered = name
            self.acceptance.counters.add("connections accepted")
        if self._implicit_tls or self._original_transport is not None:
            self.acceptance.counters.add("tls implicit" if self._implicit_tls else "tls starttls")
        self.user = None  # STARTTLS begins anew, RFC 3207 §4.2
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._entered:
            super().data_received(data)

    def eof_received(self) -> bool | None:
        return super().eof_received() if self._entered else None

    def connection_lost(self, error: Exception | None) -> None:
        if self._entered:
            self.acceptance.leave(self, self._entered)
            super().connection_lost(error)

    def _timeout_cb(self) -> None:
        self.hang_up("421 4.4.2 no answer for too long")

    def hang_up(self, reply: str) -> None:
        """Say a last word, and close, also when the client does not listen."""
        if self.transport is None:
            return
        if not self.transport.is_closing():
            self.acceptance.counters.replied(reply)
            self._writer.write(f"{reply}\r\n".encode())
            self._writer.close()
        self.loop.call_later(LAST_WORD_SECONDS, self._writer.transport.abort)

    def drain(self) -> None:
        """Close now, or as soon as the message under way is accepted."""
        if not self.busy:
            self.hang_up(f"421 4.3.2 {self.hostname} is shutting down")

    async def push(self, status: AnyStr) -> None:
        if isinstance(status, str):
            reply = enhance(status)
            self.acceptance.counters.replied(reply)
            await super().push(reply)
            self._errors += reply[0] in "45"
            if self._errors >= MAX_ERRORS:
                self.hang_up("421 4.7.0 too many errors")
        else:
            await super().push(status)


def _address(peer: object) -> str:
    return str(peer[0]) if isinstance(peer, tuple) else "unknown"
