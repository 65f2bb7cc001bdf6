"""[http2mbox] in stub.conf."""

from dataclasses import dataclass
from pathlib import Path

from stubmail.sent import DEFAULT_DIRECTORY
from stubmail.settings import ConfigError, setting


@dataclass(frozen=True)
class Http2mbox:
    """[http2mbox]: whose mail is pulled, how often, and what is kept where."""

    users: Path = setting(doc="the users file: accounts with address, gnupghome, passphrase_file and maildrop")
    state: Path = setting(doc="the directory for cookies and the ids of delivered posts; it must survive restarts")
    store: str = setting("", "URL of our own domain's store; default: the one that its DNS records name")
    sent: Path = setting(DEFAULT_DIRECTORY, "where the gateway keeps headers of stored mail: [smtp2stub] sent")
    interval_seconds: float = setting(0.0, "seconds from one round to the next; 0: one round, then the program ends")
    full_check_seconds: float = setting(3600.0, "how long UDP checks may spare a store the full question over HTTP")
    max_post: int = setting(64 * 2**20, "octets of the largest post that is fetched; a larger one is held")
    admin_listen: str = setting(
        "127.0.0.1:9467", "HOST:PORT for /livez, /readyz and /metrics while it runs at an interval; empty: nowhere"
    )
    workers: int = setting(
        32, "how many domains are talked to over HTTP at the same time; four times as many more when they are slow"
    )
    lock_seconds: float = setting(30.0, "how long to wait for another program that has the maildrop locked")
    pipe_seconds: float = setting(300.0, "how long a delivery program (maildrop pipe:) may take for one message")

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that makes no sense."""
        for name, least in (
            ("full_check_seconds", 1),
            ("max_post", 1024),
            ("workers", 1),
            ("lock_seconds", 0),
            ("pipe_seconds", 1),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(f"[http2mbox] {name} must be at least {least}")
        if not (self.interval_seconds == 0 or self.interval_seconds >= MIN_INTERVAL):
            raise ConfigError(f"[http2mbox] interval_seconds must be 0 or at least {MIN_INTERVAL}")


MIN_INTERVAL = 0.05  # seconds
DRAIN_SECONDS = 3.0  # for what is under way when the process is told to end; network waits longer than that are cut
