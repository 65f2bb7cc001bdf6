"""The AUTHORIZATION state: how a client says who it is, and begins TLS (RFC 1939 §4, RFC 2595, RFC 5034); no I/O."""

from collections.abc import Callable, Mapping

from services.pop3d.actions import Login, Outcome, StartTls
from services.pop3d.sasl import SaslError, parse_plain
from services.pop3d.wire import WireError, ok, parse_numbers


class Authorization:
    """What was said so far; ``forget`` when TLS begins.

    ``encrypted``: TLS is already on. ``tls_offered``: the caller can carry out StartTls. ``plain_allowed``: this client
    may log in without TLS.
    """

    __slots__ = ("_name", "_plain_allowed", "encrypted", "exchanging", "tls_offered")

    def __init__(self, *, encrypted: bool, tls_offered: bool, plain_allowed: bool) -> None:
        self.encrypted = encrypted
        self.tls_offered = tls_offered
        self._plain_allowed = plain_allowed
        self._name: bytes | None = None
        self.exchanging = False
        """Whether the next line is a response of a SASL exchange, no command."""

    @property
    def login_allowed(self) -> bool:
        """Whether passwords are taken on this connection as it is."""
        return self.encrypted or self._plain_allowed

    def tls_started(self) -> None:
        """Go on under TLS, with everything forgotten that the client said before (RFC 2595 §4)."""
        self.encrypted = True
        self._name = None

    def respond(self, line: bytes) -> Outcome:
        """Take a response of a SASL exchange. Raises WireError."""
        self.exchanging = False
        try:
            name, password = parse_plain(line)
        except SaslError as error:
            raise WireError(str(error)) from None
        return Login(name, password)

    def _require_login_allowed(self) -> None:
        if not self.login_allowed:
            raise WireError("Passwords are taken under TLS only" + (", say STLS first" if self.tls_offered else ""))

    def _user(self, argument: bytes) -> Outcome:
        self._require_login_allowed()
        self._name = None
        if not argument:
            raise WireError("The name is missing")
        self._name = argument
        return ok("send PASS")  # to every name: whether there is such a user is not told

    def _pass(self, argument: bytes) -> Outcome:
        self._require_login_allowed()
        name, self._name = self._name, None
        if name is None:
            raise WireError("Send USER first")
        return Login(name, argument)  # all of it: a password may hold spaces, RFC 1939 §7

    def _auth(self, argument: bytes) -> Outcome:
        mechanism, space, initial = argument.partition(b" ")
        if not argument:
            return ok("mechanisms follow") + (b"PLAIN\r\n" if self.login_allowed else b"") + b".\r\n"
        self._require_login_allowed()
        self._name = None
        if mechanism.upper() != b"PLAIN":
            raise WireError("Unknown authentication mechanism")
        if space:
            return self.respond(b"" if initial == b"=" else initial)
        self.exchanging = True
        return b"+ \r\n"

    def _stls(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        if self.encrypted or not self.tls_offered:
            raise WireError("TLS is already on" if self.encrypted else "TLS is not available")
        return StartTls()


COMMANDS: Mapping[bytes, Callable[[Authorization, bytes], Outcome]] = {
    b"USER": Authorization._user,
    b"PASS": Authorization._pass,
    b"AUTH": Authorization._auth,
    b"STLS": Authorization._stls,
}
