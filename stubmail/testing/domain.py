"""One stub domain on loopback: where its files lie, its ports, and the stub.conf and zone records that follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stubmail.dns.publication import Service, entries
from stubmail.dns.records import CHECK_PORT, KEYS_PORT
from stubmail.openpgp import Certificate
from stubmail.provision import Site
from stubmail.testing.wire import Link, Place
from stubmail.testing.zones import rewrite

LOOPBACK = "127.0.0.1"
PORTS = ("smtp", "pop3", "pop3s", "store", "admin", "gateway_admin", "udp", "hkp")
STORE_PORT = 8080  # as dns/zone.example has it

_ZONE_FILE = Path(__file__).parents[2] / "dns" / "zone.example"
_EMPTY_ZONE = "$ORIGIN example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 604800 60\n@ NS ns\nns A 127.0.0.1\n"


@dataclass
class DomainNetwork:
    """One domain: where its files lie, on which loopback ports its services answer, and the links in front of them."""

    site: Site
    users: tuple[str, ...]
    ports: dict[str, int]
    links: dict[str, Link] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The domain's stub.conf."""
        return self.site.root / "stub.conf"

    def place(self, service: str) -> Place:
        """Where clients reach a service (smtp, pop3, pop3s, store, udp, hkp): behind its link when it has one."""
        return self.links[service].place if service in self.links else (LOOPBACK, self.ports[service])

    def mbox(self, user: str) -> Path:
        """A user's maildrop."""
        return self.site.mail / user


def zone_text(domains: Mapping[str, DomainNetwork]) -> str:
    """Return dns/zone.example, with the services of these domains at their places on loopback."""
    text = _ZONE_FILE.read_text() if _ZONE_FILE.exists() else _EMPTY_ZONE
    places: dict[Place, Place] = {}
    for name, domain in domains.items():
        if f"\n_post._tcp.{name.removesuffix('.example')} " not in text:
            text += _block(name)
        places[f"post.{name}", STORE_PORT] = domain.place("store")
        places[f"post.{name}", CHECK_PORT] = domain.place("udp")
        places[f"keys.{name}", KEYS_PORT] = domain.place("hkp")
    return rewrite(text, places)


def stub_conf(domain: DomainNetwork, dns: Place, legacy: Place) -> str:
    """Return a domain's stub.conf: resolver at ``dns``, smarthost at ``legacy``."""
    site, at = domain.site, {name: f"{LOOPBACK}:{port}" for name, port in domain.ports.items()}
    return f"""\
[domain]
name = "{site.domain}"

[dns]
resolver = "{dns[0]}:{dns[1]}"
allow_private = true

[post_manager]
listen = "{at["store"]}"
admin_listen = "{at["admin"]}"
host = "post.{site.domain}"
prefix = "post_manager"
udp_listen = "{at["udp"]}"
workers = 1
spool = "{site.accounts.parent}"
accounts = "{site.accounts}"

[keyserver]
listen = "{at["hkp"]}"
domain = "{site.domain}"
keys = "{site.certificates}"

[smtp2stub]
listen = "{at["smtp"]}"
admin_listen = "{at["gateway_admin"]}"
users = "{site.users}"
spool = "{site.root / "spool"}"
sent = "{site.sent}"
smarthost = "{legacy[0]}:{legacy[1]}"
smarthost_tls = "none"
allow_plain_auth = true
retry_min_seconds = 1

[http2mbox]
admin_listen = ""
users = "{site.users}"
state = "{site.root / "state"}"
sent = "{site.sent}"

[pop3d]
listen = "{at["pop3"]}"
admin_listen = ""
tls_listen = "{at["pop3s"]}"
tls_cert = "{site.tls / "cert.pem"}"
tls_key = "{site.tls / "key.pem"}"
users = "{site.users}"
allow_plain = true
"""


def _block(domain: str) -> str:
    """The records of one more domain, on hosts named as dns/zone.example names them; the addresses are rewritten."""
    post, keys = f"post.{domain}", f"keys.{domain}"
    service = Service(post, keys, post, store_port=STORE_PORT)
    hosts = [f"{host}. A {LOOPBACK}" for host in (post, keys)]
    return "\n".join([*(entry.format() for entry in entries(domain, service)), *hosts, ""])
