"""The AUTHORIZATION state: how a client says who it is, and begins TLS (RFC 1939 §4, RFC 2595, RFC 5034); no I/O."""

from collections.abc import Callable, Mapping

from services.pop3d.actions import DigestLogin, Login, Outcome, StartTls
from services.pop3d.sasl import (
    CramMd5,
    Mechanism,
    Plain,
    SaslError,
    Scram,
    UserAndPassword,
    format_challenge,
    parse_response,
)
from services.pop3d.terms import Terms
from services.pop3d.wire import WireError, ok, parse_numbers
from stubmail.scram import Exchange, Keys

SCRAM, SCRAM_PLUS, CRAM_MD5 = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5"
IN_THE_CLEAR = ("PLAIN", "LOGIN")  # mechanisms that send the password


def _nothing() -> str:
    return ""


def _no_binding(kind: str) -> bytes:
    return b""


class Authorization:
    """What was said so far.

    ``fresh`` returns printable ASCII that was never used and cannot be guessed; ``binding`` the TLS channel's data for
    a type of channel binding (RFC 5929), nothing for one that it does not have.
    """

    __slots__ = ("_binding", "_fresh", "_mechanism", "_name", "_terms", "encrypted", "timestamp")

    def __init__(
        self, terms: Terms, encrypted: bool, fresh: Callable[[], str], binding: Callable[[str], bytes]
    ) -> None:
        self._terms = terms
        self._fresh = fresh
        self._binding = binding
        self._name: bytes | None = None
        self._mechanism: Mechanism | None = None
        self.encrypted = encrypted
        self.timestamp = self._unique() if terms.challenges else ""
        """For the greeting; with it APOP is offered (RFC 1939 §7)."""

    @property
    def exchanging(self) -> bool:
        """Whether the next line is a response of a SASL exchange, no command."""
        return self._mechanism is not None

    @property
    def login_allowed(self) -> bool:
        """Whether passwords are taken on this connection as it is."""
        return self.encrypted or self._terms.plain_allowed

    @property
    def mechanisms(self) -> list[str]:
        """What may be announced, the best first (RFC 5034 §6)."""
        names = list(self._terms.mechanisms)
        if SCRAM in names and self.encrypted:
            names.insert(0, SCRAM_PLUS)
        return [*names, *(IN_THE_CLEAR if self.login_allowed else ())]

    def tls_started(self) -> None:
        """Go on under TLS, with everything forgotten that the client said before (RFC 2595 §4)."""
        self.encrypted = True
        self._name = None

    def forget_name(self) -> None:
        """Something came between USER and PASS, which belong together (RFC 1939 §7)."""
        self._name = None

    def respond(self, line: bytes) -> Outcome:
        """Take a response of a SASL exchange. Raises WireError."""
        mechanism, self._mechanism = self._mechanism, None
        assert mechanism is not None
        try:
            step = mechanism.respond(parse_response(line))
        except SaslError as error:
            raise WireError(str(error)) from None
        self._mechanism = mechanism if isinstance(mechanism, Scram) or isinstance(step, bytes) else None
        return format_challenge(step) if isinstance(step, bytes) else step

    def keys_found(self, keys: Keys) -> bytes:
        """Go on with SCRAM."""
        assert isinstance(self._mechanism, Scram)
        return format_challenge(self._mechanism.keys_found(keys))

    def decided(self) -> None:
        """A login was accepted or refused: the exchange is over."""
        self._mechanism = None

    def accepted(self) -> None:
        """Keep nothing that only a login needs."""
        self.decided()
        self._name = None
        self._fresh, self._binding, self.timestamp = _nothing, _no_binding, ""

    def _unique(self) -> str:
        return f"<{self._fresh()}@stubmail>"  # RFC 1939 §7: in the form of a msg-id

    def _require_login_allowed(self) -> None:
        if not self.login_allowed:
            offer = ", say STLS first" if self._terms.tls_offered else ""
            raise WireError(f"Passwords are taken under TLS only{offer}")

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

    def _apop(self, argument: bytes) -> Outcome:
        self._name = None
        if not self.timestamp:
            raise WireError("APOP is not available")
        name, space, digest = argument.rpartition(b" ")
        if not space or not name:
            raise WireError("APOP needs a name and a digest")
        return DigestLogin(name, self.timestamp.encode(), digest, "APOP")

    def _auth(self, argument: bytes) -> Outcome:
        name, space, initial = argument.partition(b" ")
        if not name:
            listing = "".join(f"{mechanism}\r\n" for mechanism in self.mechanisms)
            return ok("mechanisms follow") + listing.encode() + b".\r\n"
        self._name = None
        mechanism = self._choose(name.upper())
        self._mechanism = mechanism
        if not space:
            return format_challenge(mechanism.challenge)
        if not mechanism.takes_initial:
            self._mechanism = None
            raise WireError("This mechanism takes no initial response")
        return self.respond(b"" if initial == b"=" else initial)

    def _choose(self, name: bytes) -> Mechanism:
        """Return a new exchange of the mechanism with this name. Raises WireError."""
        plus = name == SCRAM_PLUS.encode()
        if name == SCRAM.encode() or (plus and self.encrypted):
            exchange = Exchange(
                self._fresh().encode(), self._binding, plus=plus, plus_offered=SCRAM_PLUS in self.mechanisms
            )
            return Scram(exchange, name.decode())
        if name == CRAM_MD5.encode() and self._terms.challenges:
            return CramMd5(self._unique().encode())
        if name in (b"PLAIN", b"LOGIN"):
            self._require_login_allowed()
            return Plain() if name == b"PLAIN" else UserAndPassword()
        raise WireError("Unknown authentication mechanism")

    def _stls(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        if self.encrypted or not self._terms.tls_offered:
            raise WireError("TLS is already on" if self.encrypted else "TLS is not available")
        return StartTls()

    def _utf8(self, argument: bytes) -> Outcome:
        """RFC 6856 §2: messages go out octet for octet in both modes, so that the mode changes nothing else."""
        parse_numbers(argument, 0, 0)
        return ok("UTF-8 it is")


COMMANDS: Mapping[bytes, Callable[[Authorization, bytes], Outcome]] = {
    b"USER": Authorization._user,
    b"PASS": Authorization._pass,
    b"APOP": Authorization._apop,
    b"AUTH": Authorization._auth,
    b"STLS": Authorization._stls,
    b"UTF8": Authorization._utf8,
}
