"""[post_manager] in stub.conf."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from services.post_manager.policy import DAY
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.posts import Terms
from stubmail.cli import parse_listen
from stubmail.settings import ConfigError, Domain, check_name, items, setting

DATABASE_FILE = "store.db"  # in the spool directory
PID_FILE = "post_manager.pid"  # there too
MIN_OUTBOX_DAYS = 30  # protocol.md §5.6
AROUND_POST = 16_384  # octets of a request with one post: its JSON, its MAC, and what separates its parts

_PREFIX = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*")  # protocol.md §3.1
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class PostManager:
    """[post_manager]: where the store answers, what it keeps, and for whom."""

    accounts: Path = setting(doc="the accounts file (TOML): who may store posts; read again on SIGHUP")
    listen: str = setting("127.0.0.1:8080", "HOST:PORT for HTTP; TLS is a reverse proxy's work")
    prefix: str = setting("post_manager", "the path of the store's URL, without slashes around it")
    host: str = setting("", "the host name in the _post record, which requests must name; default: [domain] host")
    spool: Path = setting(Path("/var/spool/stubmail"), "a directory of this user's alone, for the database and uploads")
    database: str = setting("", f"URL of the database; default: the SQLite file {DATABASE_FILE} in the spool directory")
    admin_listen: str = setting("127.0.0.1:9465", "HOST:PORT for /livez, /readyz and /metrics; empty: nowhere")
    udp: bool = setting(True, "answer checks over UDP; without, clients use HTTP alone")
    udp_listen: str = setting("0.0.0.0:2225", "HOST:PORT for UDP checks")
    workers: int = setting(2, "processes that answer HTTP")
    threads: int = setting(16, "large or slow requests that one of them serves at a time; small ones need none")
    timeout_seconds: float = setting(30.0, "for how long a client may stall; then 8 KiB a second is the least")
    max_post: int = setting(64 * 2**20, "octets of the largest post")
    max_request: int = setting(128 * 2**20, "octets of the largest request")
    quota_posts: int = setting(10_000, "how many posts of an account may wait, unless the accounts file says otherwise")
    quota_bytes: int = setting(2**30, "how many octets of an account may wait, unless the accounts file says otherwise")
    lifetime_days: int = setting(30, "how long a post waits to be fetched, unless the accounts file says otherwise")
    outbox_days: int = setting(90, f"how long the outbox shows what no longer waits; at least {MIN_OUTBOX_DAYS}")
    rate_network: int = setting(200, "requests a second from one address (IPv6: /64) and worker; 0: any number")
    rate_client: int = setting(100, "requests a second of one session, or account, and worker; 0: any number")
    reserve_bytes: int = setting(64 * 2**20, "octets of the spool's disk that new posts may not take")
    drain_seconds: float = setting(30.0, "after SIGTERM, for how long requests in flight may go on")
    drain_notice_seconds: float = setting(0.0, "before that, for how long new ones are taken while /readyz says no")
    trusted_proxies: list[str] = items([], "networks whose X-Forwarded-For is believed")
    require_udp: bool = setting(False, "under attack: drop, unread, HTTP requests of clients that never asked over UDP")
    token_exempt: list[str] = items(["127.0.0.0/8", "::1/128"], "networks that require_udp does not concern")

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        parse_listen(self.listen)
        parse_listen(self.udp_listen)
        if self.admin_listen:
            parse_listen(self.admin_listen)
        check_name("post_manager", "host", self.host)
        if not _PREFIX.fullmatch(self.prefix) or len(self.prefix) > 255 or {".", ".."} & set(self.prefix.split("/")):
            raise ConfigError(f"[post_manager] prefix: {self.prefix!r} cannot be a URL's path")
        for name, least, most in (
            ("workers", 1, 64),
            ("threads", 1, 256),
            ("timeout_seconds", 0.1, 3600),
            ("max_post", 1, 2**40),
            ("max_request", 2**20, 2**40),
            ("quota_posts", 0, 2**40),
            ("quota_bytes", 0, 2**60),
            ("lifetime_days", 1, 36_500),
            ("outbox_days", MIN_OUTBOX_DAYS, 36_500),
            ("rate_network", 0, 10**6),
            ("rate_client", 0, 10**6),
            ("reserve_bytes", 0, 2**60),
            ("drain_seconds", 1, 3600),
            ("drain_notice_seconds", 0, 3600),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"[post_manager] {name} must be from {least} to {most}")
        if self.max_post > (most := self.max_request - AROUND_POST):
            raise ConfigError(
                f"[post_manager] max_post is {self.max_post}, but max_request leaves room for posts of {most} octets: "
                f"lower max_post, or raise max_request to {self.max_post + AROUND_POST}"
            )
        if self.require_udp and not self.udp:
            raise ConfigError("[post_manager] require_udp cannot be true while udp is false: nobody would get a token")
        _ = self.proxies, self.exempt

    def host_of(self, domain: Domain) -> str:
        """The name that requests must name: lower case, no trailing dot (protocol.md §4.2)."""
        return (self.host or domain.host or domain.name).lower().removesuffix(".")

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks in ``trusted_proxies``."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"[post_manager] trusted_proxies: {error}") from error

    @property
    def exempt(self) -> tuple[Network, ...]:
        """The networks in ``token_exempt``."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.token_exempt)
        except ValueError as error:
            raise ConfigError(f"[post_manager] token_exempt: {error}") from error

    @property
    def database_url(self) -> str:
        """The database's URL, given or not."""
        return self.database or sqlite_url(self.spool.absolute() / DATABASE_FILE)

    @property
    def pid_file(self) -> Path:
        """Locked by the process that runs the store with this spool directory."""
        return self.spool / PID_FILE

    @property
    def terms(self) -> Terms:
        """What an account may store when the accounts file does not say."""
        return Terms(self.quota_posts, self.quota_bytes, self.max_post, self.lifetime_days * DAY)
