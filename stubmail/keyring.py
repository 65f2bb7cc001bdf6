"""The keyring: a GnuPG home that the user may manage with gpg itself, and the final authority on who is who."""

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stubmail import log
from stubmail.address import Address
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.key_changes import KeyChanges
from stubmail.keyring_contents import Contents, read_contents, stamp_of
from stubmail.openpgp import Certificate, Identity, OpenPGPError
from stubmail.openpgp.agent import AgentIdentity
from stubmail.openpgp.gnupg import OPTIONS, PROGRAM, TIMEOUT, GnuPG, check_passphrase, missing
from stubmail.openpgp.unlocked import UnlockedIdentity
from stubmail.spool import write_durably

MAX_HOME = 86  # octets; the agent's socket is in there, and a socket's path has 108 at most
REPLACED = "stubmail-replaced"  # the directory in the home where certificates are kept that had to give way

_UNNAMABLE = frozenset("<>@()")  # in a user ID's name these would read as a comment or an address

logger = logging.getLogger("keyring")


class KeyConflict(PermanentError):
    """Another certificate is already there for the address; the keyring never replaces one."""

    def __init__(self, address: str, present: str, offered: str) -> None:
        super().__init__(
            "5.7.5", f"the keyring already has key {present} for {address}, which {offered} cannot replace"
        )
        self.address = address
        self.present = present
        self.offered = offered


class Keyring:
    """The keys in one GnuPG home; read again whenever gpg or anyone else has changed them. Thread-safe."""

    def __init__(self, home: Path) -> None:
        """Use the GnuPG home directory ``home``, which is made when it is missing.

        Raises Exit when gpg is not installed or the path is too long for the agent's socket.
        """
        self.home = home.expanduser().absolute()
        if len(os.fsencode(self.home)) > MAX_HOME:
            text = f"the GnuPG home {self.home} has more than {MAX_HOME} characters, too many for gpg-agent's socket"
            raise Exit(os.EX_CONFIG, text)
        if shutil.which(PROGRAM) is None:
            raise missing()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.changes = KeyChanges(self.home)
        self._gnupg = GnuPG(self.home)
        self._mutex = threading.RLock()
        self._contents: Contents | None = None

    def identity(self, address: Address, passphrase: str = "") -> Identity:
        """Return our own key for ``address`` (or its base address), ready for use.

        Raises OpenPGPError when it is expired, revoked or not unlocked by the passphrase (an empty one leaves a
        protected key to gpg-agent), PermanentError when there is no such key.
        """
        certificate = self.export(address)
        if problem := certificate.signing_problem(datetime.now(UTC)):
            raise OpenPGPError(problem, f"our own key {certificate.fingerprint} for {address} is {problem}")
        result = self._gnupg.run("--export-secret-keys", certificate.fingerprint, passphrase=passphrase)
        if result.output and not result.code:
            try:
                return UnlockedIdentity(certificate, result.output, passphrase, self._gnupg)
            except OpenPGPError as error:
                log.event(logger, "left to gpg", certificate.fingerprint, level=logging.DEBUG, reason=error.text)
        elif passphrase:
            check_passphrase(result)
        agent = AgentIdentity(certificate, self._gnupg, passphrase or None)
        try:
            agent.sign(b"")  # better now than with the first message
        except OpenPGPError as error:
            if passphrase or error.reason != "unsupported":
                raise
            advice = "if it has a passphrase, name its passphrase_file, or have gpg-agent know it"
            raise OpenPGPError("wrong-passphrase", f"{error.text}; {advice}") from error
        return agent

    def find(self, address: Address) -> Certificate | None:
        """Return the certificate for an address: exact before its base address, usable before not, then the newest."""
        return self._read().best(address)

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        """Return the certificate with this fingerprint, of its primary key or else of a subkey, in any case of letters.

        A long key ID (16 hex digits), which can be forged, will do only when just one certificate has it; so will a
        subkey's fingerprint, since anyone can hang another's subkey under his own key. Whoever verifies with what
        this returns learns whether the subkey really belongs there.
        """
        name = fingerprint.upper()
        found = self._read().by_key.get(name, [])
        primary = [certificate for certificate in found if certificate.fingerprint == name]
        if primary or len(found) == 1:
            return (primary or found)[0]
        return None

    def correspondents(self) -> dict[str, list[Certificate]]:
        """Return everyone else's certificates by Address.key; certificates of our own secret keys are left out."""
        contents = self._read()
        result: dict[str, list[Certificate]] = {}
        for address, certificates in contents.by_address.items():
            others = [certificate for certificate in certificates if certificate.fingerprint not in contents.own]
            if others:
                result[address] = others
        return result

    def add(self, certificate: Certificate) -> bool:
        """Import a certificate; True when it is new, False when that fingerprint is already there (nothing changes).

        Raises KeyConflict when another certificate for one of its addresses is there, usable or not, OpenPGPError when
        it names no address or gpg cannot use it.
        """
        if not certificate.addresses:
            raise OpenPGPError("malformed", f"the certificate {certificate.fingerprint} names no mail address")
        with self._exclusive():
            if certificate.fingerprint in self._read().all:
                return False
            self._check_free(certificate, certificate.addresses)
            self._import(certificate.data)
            if certificate.fingerprint not in self._read().all:
                raise OpenPGPError("unsupported", f"gpg cannot use the certificate {certificate.fingerprint}")
            return True

    def update(self, certificate: Certificate) -> bool:
        """Take in what a newer version of a certificate in the keyring adds; True when it adds anything.

        Nothing is lost by that. Raises KeyConflict when an address comes along for which another certificate is there,
        OpenPGPError when the whole would be too large, PermanentError when that key is not in the keyring.
        """
        with self._exclusive():
            present = self._read().all.get(certificate.fingerprint)
            if present is None:
                raise PermanentError("5.7.5", f"the keyring has no key {certificate.fingerprint}")
            merged = present.merged(certificate)
            if merged.data == present.merged(present).data:
                return False
            self._check_free(merged, merged.addresses - present.addresses)
            self._import(merged.data)
            return True

    def replace(self, certificate: Certificate, address: Address) -> list[Path]:
        """Have this certificate for an address and no other, because a person wants that.

        Others for it leave the keyring, or lose this address when they have more than that. Returns the files in which
        they were kept before. May be repeated after a crash. Raises PermanentError when one is our own key, KeyConflict
        when the new one has another address that is taken, OpenPGPError when gpg cannot use it.
        """
        with self._exclusive():
            contents = self._read()
            others = [
                other
                for other in contents.all.values()
                if address.key in other.addresses and other.fingerprint != certificate.fingerprint
            ]
            if own := [other.fingerprint for other in others if other.fingerprint in contents.own]:
                raise PermanentError("5.7.5", f"{own[0]} for {address} is our own key")
            self._check_free(certificate, certificate.addresses - {address.key})
            kept = [self._set_aside(other) for other in others]
            self._import(certificate.data)
            if certificate.fingerprint not in self._read().all:
                raise OpenPGPError("unsupported", f"gpg cannot use the certificate {certificate.fingerprint}")
            for other in others:
                if self._gnupg.run("--delete-keys", other.fingerprint).code:
                    raise PermanentError("5.7.5", f"gpg cannot remove key {other.fingerprint} from {self.home}")
                if rest := other.addresses - {address.key}:
                    log.event(logger, "kept", other.fingerprint, addresses=", ".join(sorted(rest)))
                    self._import(other.without(address).data)
            return kept

    def generate(self, address: Address, name: str, passphrase: str = "") -> Certificate:
        """Make an ed25519/cv25519 key that does not expire, for ``name <address>``, and return its certificate.

        Raises KeyConflict when there is a key for the address, PermanentError when gpg cannot make one.
        """
        if not name.isprintable() or _UNNAMABLE & set(name):
            raise PermanentError("5.7.5", "the name on a key must be printable, without brackets or @")
        if not passphrase.isprintable() or passphrase != passphrase.strip():
            raise PermanentError("5.7.5", "a passphrase must be printable, without blanks around it")
        with self._exclusive():
            for other in self._read().all.values():
                if address.key in other.addresses:
                    raise KeyConflict(address.key, other.fingerprint, "a new key")
            parameters = _parameters(address, name.strip(), passphrase)
            result = self._change(lambda gpg: gpg.gen_key(parameters))
            certificate = self._read().all.get(result.fingerprint or "")
        if certificate is None:
            raise PermanentError("5.7.5", f"gpg could not make a key for {address}")
        return certificate

    def export(self, address: Address) -> Certificate:
        """Return our own certificate for ``address`` (or its base address). Raises PermanentError."""
        own = self._read().best(address, own=True)
        if own is None:
            raise PermanentError("5.7.5", f"there is no secret key for {address} in {self.home}")
        return own

    def _check_free(self, certificate: Certificate, addresses: frozenset[str]) -> None:
        """Raise KeyConflict when another certificate has one of these addresses."""
        for other in self._read().all.values():
            if other.fingerprint != certificate.fingerprint:
                for key in sorted(other.addresses & addresses):
                    raise KeyConflict(key, other.fingerprint, certificate.fingerprint)

    def _import(self, data: bytes) -> None:
        self._change(lambda gpg: gpg.import_keys(data))

    def _set_aside(self, certificate: Certificate) -> Path:
        """Keep a certificate that is about to go in a file, for whoever wants it back. Raises OSError."""
        directory = self.home / REPLACED
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / f"{certificate.fingerprint}.asc"
        write_durably(path, certificate.armored())
        return path

    def _read(self) -> Contents:
        with self._mutex:
            stamp = stamp_of(self.home)
            if self._contents is None or stamp != self._contents.stamp:
                self._contents = read_contents(self._gnupg, stamp)
            return self._contents

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other processes of ours from changing the keyring between a look and a change."""
        with self._mutex, (self.home / ".stubmail.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _change(self, action: Callable[[Any], Any]) -> Any:
        """Return what ``action`` returns, given a python-gnupg on this home whose every process ends within TIMEOUT."""
        import gnupg  # seldom needed, and not quickly imported

        limit = ["timeout", "--kill-after=5", f"{TIMEOUT:.0f}"]  # the one in coreutils
        try:
            gpg = gnupg.GPG(gpgbinary=PROGRAM, gnupghome=str(self.home), options=list(OPTIONS))
            gpg.encoding = "utf-8"
            plain = gpg.make_args
            gpg.make_args = lambda arguments, passphrase: [*limit, *plain(arguments, passphrase)]
            result = action(gpg)
        except (OSError, ValueError) as error:  # gpg ended before it had read everything, or would not even start
            raise TemporaryError("4.3.0", f"gpg failed on {self.home}: {error}") from error
        if result.returncode in (124, 137):
            raise TemporaryError("4.3.0", f"gpg did not finish within {TIMEOUT:.0f} seconds")
        return result


def _parameters(address: Address, name: str, passphrase: str) -> str:
    """Return gpg's parameters for unattended key generation; every value is known to be one line."""
    lines = ["Key-Type: EDDSA", "Key-Curve: ed25519", "Key-Usage: sign"]
    lines += ["Subkey-Type: ECDH", "Subkey-Curve: cv25519", "Subkey-Usage: encrypt", "Expire-Date: 0"]
    lines += [f"Name-Real: {name}"] if name else []
    lines += [f"Name-Email: {address}", f"Passphrase: {passphrase}" if passphrase else "%no-protection", "%commit", ""]
    return "\n".join(lines)
