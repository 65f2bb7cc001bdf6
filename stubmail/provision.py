"""Sets up one domain's accounts: OpenPGP keys, users file, the store's accounts, key server files, TLS certificate.

What is there already is kept, so it may run at every start.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stubmail.address import Address
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate
from stubmail.passwords import hash_password
from stubmail.settings import load_file
from stubmail.spool import write_durably
from stubmail.users import load_users

CERTIFICATE_DAYS = 825


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
    def tls(self) -> Path:
        """cert.pem and key.pem: gateway and POP3 server."""
        return self.root / "tls"


def provision(site: Site, names: Sequence[str], password: str) -> dict[str, Certificate]:
    """Make accounts ``names`` at the site's domain, all with ``password``, and return their certificates.

    Keys are ed25519/cv25519 without a passphrase: whoever runs the domain protects the disk. An account that has a key
    or a password keeps it. Raises OSError, and PermanentError when gpg cannot make a key.
    """
    for directory in (site.users.parent, site.keys, site.accounts.parent, site.certificates, site.mail, site.tls):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates = {name: _own_key(site, name) for name in names}
    _write_users(site, names, password)
    lines = [
        f'[accounts.{name}]\naddress = "{name}@{site.domain}"\nfingerprint = "{certificate.fingerprint}"\n'
        for name, certificate in certificates.items()
    ]
    write_durably(site.accounts, "\n".join(lines).encode())
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


def _write_users(site: Site, names: Sequence[str], password: str) -> None:
    """Add the accounts that the users file does not have yet; those it has stay as they are."""
    old = site.users.read_text() if site.users.exists() else ""
    known = load_file(site.users).get("users", {}) if old else {}
    new = [
        f"[users.{name}]\n"
        f'address = "{name}@{site.domain}"\n'
        f'password = "{hash_password(password)}"\n'
        f'gnupghome = "{site.keys / name}"\n'
        f'maildrop = "mbox:{site.mail / name}"\n'
        for name in names
        if name not in known
    ]
    if new:
        write_durably(site.users, "\n".join([old, *new] if old else new).encode())
    load_users(site.users)


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
