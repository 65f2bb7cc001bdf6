"""[smtp2stub] of stub.conf."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stubmail.cli import parse_listen
from stubmail.queue import DEFAULT_SPOOL, MAX_RECIPIENTS
from stubmail.routing import Policy
from stubmail.settings import ConfigError, default_path, setting

_NOT_NEGATIVE = (
    "delay_notice_hours",
    "key_refresh_hours",
    "failure_delay_seconds",
    "failure_delay_longest",
    "drain_seconds",
    "reserve_bytes",
)
_POSITIVE = ("timeout_seconds", "retry_min_seconds", "retry_max_seconds", "queue_lifetime_days", "pipe_seconds")
_LOWEST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def _own_port() -> str | None:
    """For somebody who may not use port 587: another one (ip(7))."""
    with suppress(OSError, ValueError):
        if os.geteuid() != 0 and int(_LOWEST_PORT.read_text()) > 587:
            return "127.0.0.1:1587"
    return None


def _own_spool() -> str | None:
    """For somebody who may not write below /var/spool: a directory at home."""
    if os.access(DEFAULT_SPOOL if DEFAULT_SPOOL.exists() else DEFAULT_SPOOL.parent, os.W_OK | os.X_OK):
        return None
    return str(default_path().parent / "spool")


@dataclass(frozen=True)
class Smtp2stub:
    """Where to listen, for whom, where to keep mail, and how it leaves."""

    users: Path = setting(doc="the users file (TOML): address, password, gnupghome and maildrop of each account")
    listen: str = setting(
        "127.0.0.1:587", "HOST:PORT for SMTP, with STARTTLS when there is a certificate", proposal=_own_port
    )
    tls_listen: str = setting("", "HOST:PORT for SMTP under TLS from the first octet, usually port 465; empty for none")
    lmtp_listen: str = setting(
        "",
        "for LMTP from a mail server on this machine: a Unix socket, or HOST:PORT on loopback; empty for none",
    )
    tls_cert: Path | None = setting(None, "the certificate and its chain (PEM)")
    tls_key: Path | None = setting(None, "the certificate's private key (PEM)")
    spool: Path = setting(DEFAULT_SPOOL, "the directory for mail that has not left yet", proposal=_own_spool)
    sent: Path | None = setting(
        None, "where headers of stored mail are kept for the puller's notices; default: SPOOL/sent"
    )
    admin_listen: str = setting("127.0.0.1:9466", "HOST:PORT for /livez, /readyz and /metrics; empty: nowhere")
    reserve_bytes: int = setting(64 * 2**20, "octets of the spool's disk that new mail may not take")
    trust_loopback: bool = setting(True, "take mail from this machine without a password, from accounts' addresses")
    allow_plain_auth: bool = setting(False, "take passwords without TLS from anywhere: for demos and tests only")
    size_limit: int = setting(52_428_800, "the largest message, in octets")
    recipient_limit: int = setting(1000, "the most recipients of one message")
    connection_limit: int = setting(1000, "the most connections at a time")
    connection_limit_per_address: int = setting(100, "the most from one address (IPv6: one /64), this machine excepted")
    timeout_seconds: float = setting(300.0, "how long a client may say nothing; RFC 5321 §4.5.3.2.7 wants 300")
    failure_delay_seconds: float = setting(0.25, "the delay after a first wrong password; it doubles with each")
    failure_delay_longest: float = setting(5.0, "the longest such delay, in seconds")
    policy: str = setting("prefer", "stub mail: require (nothing else), prefer, or never")
    policies: Path | None = setting(None, "a file of exceptions: lines of user@domain, domain or .domain, and a policy")
    key_refresh_hours: float = setting(
        24.0, "after how many hours a correspondent's key server is asked again for news of his key; 0: never"
    )
    store: str = setting("", "URL of our own domain's store; default: the one that its DNS records name")
    smarthost: str = setting("", "HOST:PORT of the SMTP server for mail to domains without stub mail; empty: refuse it")
    smarthost_tls: str = setting("starttls", "none, starttls or tls; with the latter two its certificate is verified")
    smarthost_user: str = setting("", "the name to log in at the smarthost with; empty for no login")
    smarthost_password_file: Path | None = setting(None, "the file that holds the password for that")
    smarthost_ca: Path | None = setting(None, "certificates (PEM) to trust for the smarthost; default: the system's")
    retry_min_seconds: float = setting(5.0, "the delay before the second attempt; it doubles with each")
    retry_max_seconds: float = setting(3600.0, "the longest such delay")
    queue_lifetime_days: float = setting(5.0, "after how many days undelivered mail goes back to its sender")
    delay_notice_hours: float = setting(
        4.0, "after how many hours a sender who asked for that is told of a delay; 0: never"
    )
    pipe_seconds: float = setting(60.0, "how long a delivery program (maildrop pipe:) may take for one notice")
    drain_seconds: float = setting(10.0, "how long work under way may go on after SIGTERM")

    @property
    def sent_directory(self) -> Path:
        """Where to note what was stored (stubmail.sent)."""
        return self.sent or self.spool / "sent"

    def validate(self) -> None:
        """Raise ConfigError when settings contradict each other or cannot be understood."""
        if not self.listen and not self.tls_listen and not self.lmtp_listen:
            raise ConfigError("[smtp2stub] needs listen, tls_listen or lmtp_listen")
        for name in ("listen", "tls_listen", "admin_listen", "smarthost"):
            self._check_place(name)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("[smtp2stub] tls_cert and tls_key must be given both")
        if self.tls_listen and self.tls_cert is None:
            raise ConfigError("[smtp2stub] tls_listen needs tls_cert and tls_key")
        if self.policy not in list(Policy):
            raise ConfigError(f"[smtp2stub] policy must be one of {', '.join(Policy)}, not {self.policy!r}")
        if self.smarthost_tls not in ("none", "starttls", "tls"):
            raise ConfigError(f"[smtp2stub] smarthost_tls must be none, starttls or tls, not {self.smarthost_tls!r}")
        if bool(self.smarthost_user) != (self.smarthost_password_file is not None):
            raise ConfigError("[smtp2stub] smarthost_user and smarthost_password_file must be given both")
        if self.smarthost_user and self.smarthost_tls == "none":
            raise ConfigError("[smtp2stub] a password for the smarthost needs smarthost_tls")
        for name in ("size_limit", "recipient_limit", "connection_limit", "connection_limit_per_address"):
            if getattr(self, name) < 1:
                raise ConfigError(f"[smtp2stub] {name} must be 1 or more")
        if self.recipient_limit > MAX_RECIPIENTS:
            raise ConfigError(f"[smtp2stub] recipient_limit must be {MAX_RECIPIENTS} or less")
        if self.retry_max_seconds < self.retry_min_seconds:
            raise ConfigError("[smtp2stub] retry_max_seconds must not be less than retry_min_seconds")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"[smtp2stub] {name} must be 0 or more")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"[smtp2stub] {name} must be more than 0")

    def _check_place(self, name: str) -> None:
        if text := getattr(self, name):
            try:
                parse_listen(text, 25 if name == "smarthost" else None)
            except ConfigError as error:
                raise ConfigError(f"[smtp2stub] {name}: {error.text}") from None
