"""Sets up one domain's accounts: OpenPGP keys, users file, the store's accounts, key server files, TLS certificate.

What is there already is kept, so it may run at every start.
"""

import datetime
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stubmail.address import Address
from stubmail.errors import PermanentError
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate
from stubmail.passwords import hash_password
from stubmail.settings import load_file
from stubmail.spool import write_durably

CERTIFICATE_DAYS = 825
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything of one domain lies below one directory; each service needs only some of it."""

    domain: str
    root: Path

    @property
    def users(self) -> Path:
        """The users file: gateway, puller and POP3 server read it."""
        return self.root / "accounts" / "users.toml"

    @property
    def keys(self) -> Path:
        """GnuPG homes, one for each account: gateway and puller."""
        return self.root / "keys"

    @property
    def accounts(self) -> Path:
        """Who may store mail: the store."""
        return self.root / "store" / "accounts.toml"

    @property
    def certificates(self) -> Path:
        """The published certificates: the key server."""
        return self.root / "hkp"

    @property
    def mail(self) -> Path:
        """The maildrops: puller, POP3 server, and the gateway for its reports."""
        return self.root / "mail"

    @property
    def sent(self) -> Path:
        """Headers of stored mail: the gateway writes them, the puller quotes them in notices."""
        return self.root / "sent"

    @property
    def tls(self) -> Path:
        """cert.pem and key.pem: gateway and POP3 server."""
        return self.users.parent / "tls"


def provision(site: Site, names: Sequence[str], password: str) -> dict[str, Certificate]:
    """Make accounts ``names`` at the site's domain, all with ``password``, and return their certificates.

    Keys are ed25519/cv25519 without a passphrase: whoever runs the domain protects the disk. An account that has a key
    or a password keeps it. Raises OSError, and PermanentError for a name that cannot be a file's, or when gpg cannot
    make a key.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise PermanentError("5.1.3", f"{name!r} cannot be an account's name; use letters, digits and . _ -")
    for directory in (site.users.parent, site.keys, site.accounts.parent, site.certificates, site.mail, site.tls):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates = {name: _own_key(site, name) for name in names}
    users = {
        name: {
            "address": f"{name}@{site.domain}",
            "password": hash_password(password),
            "gnupghome": f"../{site.keys.name}/{name}",
            "maildrop": f"mbox:../{site.mail.name}/{name}",
        }
        for name in names
    }
    _add_tables(site.users, "users", users)
    accounts = {
        name: {"address": f"{name}@{site.domain}", "fingerprint": certificate.fingerprint}
        for name, certificate in certificates.items()
    }
    _add_tables(site.accounts, "accounts", accounts)
    for certificate in certificates.values():
        path = site.certificates / f"{certificate.fingerprint}.asc"
        if not path.exists():
            write_durably(path, certificate.armored())
    if not (site.tls / "cert.pem").exists():
        _make_tls(site)
    return certificates


def _own_key(site: Site, name: str) -> Certificate:
    home = site.keys / name
    home.mkdir(mode=0o700, exist_ok=True)
    keyring = Keyring(home)
    address = Address(name, site.domain)
    return keyring.find(address) or keyring.generate(address, name.capitalize())


def _add_tables(path: Path, kind: str, tables: Mapping[str, Mapping[str, str]]) -> None:
    """Add the tables ``[kind."name"]`` that the TOML file does not have yet; those it has stay as they are."""
    old = path.read_text() if path.exists() else ""
    known = load_file(path).get(kind, {}) if old else {}
    texts = [old] if old else []
    for name, table in tables.items():
        if name not in known:
            lines = [f'[{kind}."{name}"]', *(f'{key} = "{value}"' for key, value in table.items())]
            texts.append("\n".join(lines) + "\n")
    write_durably(path, "\n".join(texts).encode())


def _make_tls(site: Site) -> None:
    """Make a self-signed certificate for the domain's hosts; real domains bring one of a public authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site.domain)])
    hosts = [site.domain, f"smtp.{site.domain}", f"pop3.{site.domain}", "localhost"]
    addresses = [ipaddress.ip_address("127.0.0.1")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([*map(x509.DNSName, hosts), *map(x509.IPAddress, addresses)]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_durably(site.tls / "key.pem", private)
    write_durably(site.tls / "cert.pem", certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
