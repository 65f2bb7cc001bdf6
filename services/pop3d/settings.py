"""[pop3d] of stub.conf."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from services.pop3d.system.people import check_template
from stubmail.address import AddressError, parse_domain
from stubmail.cli import parse_listen
from stubmail.settings import ConfigError, items, setting

LEAST_IDLE_SECONDS = 600

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Pop3d:
    """Where to listen, for whom, and how patiently."""

    users: Path | None = setting(None, "the users file (TOML), with password and maildrop of each account")
    auth_file: Path | None = setting(
        None, "instead of users, one account: a file of two lines, username = NAME and password = PASSWORD"
    )
    maildir: Path | None = setting(None, "the Maildir of that one account")
    system_users: bool = setting(
        False, "instead of users, those of this machine, by PAM, each session under its user's uid; started as root"
    )
    system_domains: list[str] = items(
        [], "domains whose addresses are names of system users too: USER@DOMAIN is USER; default: [domain] name"
    )
    system_maildrop: str = setting(
        "mbox:/var/mail/%u", "where the mail of system users is; %u is the name, ~/ the home directory"
    )
    system_min_uid: int = setting(1000, "system users with a smaller uid cannot log in")
    pam_service: str = setting("pop3d", "the PAM service that system users log in by, a file in /etc/pam.d")
    login_user: str = setting("nobody", "with system_users, the user that everything before login runs as")
    mail_group: str = setting("mail", "the group of sessions whose maildrop is not in the user's home directory")
    listen: str = setting("127.0.0.1:110", "HOST:PORT for POP3 in the clear, with STLS; empty for none")
    tls_listen: str = setting("", "HOST:PORT for POP3 under TLS from the first byte, usually port 995; empty for none")
    tls_cert: Path | None = setting(None, "the certificate and its chain (PEM), for tls_listen and STLS")
    tls_key: Path | None = setting(None, "the certificate's private key (PEM)")
    allow_plain: bool = setting(False, "take passwords without TLS from other machines")
    allow_plain_loopback: bool = setting(True, "take passwords without TLS from this machine")
    admin_listen: str = setting("127.0.0.1:9468", "HOST:PORT for /livez, /readyz and /metrics; empty: nowhere")
    proxies: list[str] = items([], "networks of proxies: what comes from them begins with a PROXY header, version 2")
    login_seconds: float = setting(60.0, "how long a client has to log in, from connection on")
    idle_seconds: float = setting(600.0, "how long a session may be idle after login; 600 is the least, RFC 1939 §3")
    write_seconds: float = setting(120.0, "how long a client may take nothing of what is sent to it")
    drain_seconds: float = setting(5.0, "how long sessions may go on after SIGTERM")
    login_delay_seconds: int = setting(0, "how long a user must wait between two logins (LOGIN-DELAY); 0: not at all")
    expire_days: int = setting(
        -1, "days after which messages are removed at QUIT (EXPIRE); 0: once they were retrieved; -1: never"
    )
    sessions: int = setting(4000, "how many sessions at a time; each open mailbox needs two or three descriptors")
    sessions_per_address: int = setting(50, "how many from one address (IPv6: one /64), this machine excepted")
    failure_delay_seconds: float = setting(0.25, "the delay after a first wrong password; it doubles with each")
    failure_delay_longest: float = setting(5.0, "the longest such delay, in seconds")
    threads: int = setting(16, "how many mailboxes are read or written at a time")

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        sources = (self.users is not None) + (self.auth_file is not None) + self.system_users
        if not sources:
            raise ConfigError("[pop3d] users is missing: the users file (TOML)")
        if sources > 1:
            raise ConfigError("[pop3d] users, auth_file and system_users exclude each other")
        check_template(self.system_maildrop)
        if (self.auth_file is None) != (self.maildir is None):
            raise ConfigError("[pop3d] auth_file and maildir belong together: one of them is missing")
        for name, least, most in (
            ("login_seconds", 0.1, 3600),
            ("idle_seconds", 0.1, 86_400),
            ("write_seconds", 0.1, 3600),
            ("drain_seconds", 0, 3600),
            ("login_delay_seconds", 0, 86_400),
            ("system_min_uid", 1, 1 << 31),
            ("expire_days", -1, 36_500),
            ("sessions", 1, 1_000_000),
            ("sessions_per_address", 1, 1_000_000),
            ("failure_delay_seconds", 0, 60),
            ("failure_delay_longest", 0, 60),
            ("threads", 1, 1000),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"[pop3d] {name} must be from {least} to {most}")
        if self.admin_listen:
            parse_listen(self.admin_listen)
        _ = self.networks, self.domains_of_users

    @property
    def warning(self) -> str:
        """What is allowed, for tests, and should not be meant; an empty text when there is nothing."""
        if self.idle_seconds >= LEAST_IDLE_SECONDS:
            return ""
        return f"idle_seconds is {self.idle_seconds:g}, and clients may count on {LEAST_IDLE_SECONDS} (RFC 1939 §3)"

    @property
    def domains_of_users(self) -> frozenset[str]:
        """The domains in ``system_domains``, as parse_domain has them."""
        try:
            return frozenset(map(parse_domain, self.system_domains))
        except AddressError as error:
            raise ConfigError(f"[pop3d] system_domains: {error}") from error

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks in ``proxies``."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.proxies)
        except ValueError as error:
            raise ConfigError(f"[pop3d] proxies: {error}") from error
