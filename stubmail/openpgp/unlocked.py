"""The identity whose secret key is at hand: Sequoia does the work, thousands of messages a second."""

from collections.abc import Callable, Collection, Sequence

import pysequoia
from pysequoia.packet import PacketPile

from stubmail.openpgp import packets
from stubmail.openpgp.agent import AgentIdentity
from stubmail.openpgp.certificate import ENGINE_ERRORS, MAX_PACKETS, Certificate
from stubmail.openpgp.errors import OpenPGPError
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.identity import Identity, Unsealed
from stubmail.openpgp.inner import SignerLookup
from stubmail.openpgp.message import ANYONE, EncryptedMessage
from stubmail.openpgp.operations import recipient_keys, seal_with
from stubmail.openpgp.sandbox import EngineRefusal, Sandbox


class UnlockedIdentity(Identity):
    """A key whose secret parts are at hand: Sequoia does the work, GnuPG what Sequoia refuses."""

    def __init__(self, certificate: Certificate, secret: bytes, passphrase: str, gnupg: GnuPG) -> None:
        """Unlock ``secret``, a binary transferable secret key. Raises OpenPGPError when Sequoia cannot sign with it."""
        super().__init__(certificate)
        self._signer = _unlock_signer(secret, passphrase)
        self._agent = AgentIdentity(certificate, gnupg, passphrase)
        keys = _decryption_keys(secret, {key.key_id for key in certificate.encryption_keys})
        self._indices = {key_id: index for index, key_id in enumerate(keys)}
        self._sandbox = Sandbox(list(keys.values()), passphrase)

    def sign(self, data: bytes) -> bytes:
        self.check_usable()
        return bytes(pysequoia.sign(self._signer, data, mode=pysequoia.SignatureMode.DETACHED, armor=False))

    def seal(self, data: bytes, recipients: Sequence[Certificate]) -> bytes:
        self.check_usable()
        return seal_with(self._signer, data, recipient_keys(recipients))

    def decrypt(self, data: bytes, max_size: int) -> bytes:
        for index, message in self._attempts(data):
            try:
                return self._sandbox.decrypt(index, message, None, max_size)[0]
            except EngineRefusal:
                continue
        return self._agent.decrypt(data, max_size)

    def unseal(self, data: bytes, certificate_of: Callable[[str], Certificate | None], max_size: int) -> Unsealed:
        lookup = SignerLookup(certificate_of)
        for index, message in self._attempts(data):
            try:
                text, signers = self._sandbox.decrypt(index, message, lookup, max_size)
            except EngineRefusal:
                if lookup.refusal:
                    raise lookup.refusal from None
                continue
            return Unsealed(text, lookup.one_of(signers))
        return self._agent.unseal(data, certificate_of, max_size)

    def close(self) -> None:
        self._sandbox.close()

    def _attempts(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return which of our keys to try, and on what; none when the message is of a kind that GnuPG alone reads."""
        message = EncryptedMessage.parse(data)
        if message.body_type == packets.OCB:
            return []
        named = {key.key_id for key in message.session_keys}
        return [
            (index, message.only_for([key_id]))
            for key_id, index in self._indices.items()
            if key_id in named or ANYONE in named
        ]


def _unlock_signer(secret: bytes, passphrase: str) -> pysequoia.PySigner:
    try:
        tsk = pysequoia.Tsk.from_bytes(secret)
    except ENGINE_ERRORS as error:
        raise OpenPGPError("unsupported", "the secret key cannot be read") from error
    reasons = []
    for password in dict.fromkeys([passphrase or None, None]):
        try:
            return tsk.signer(password)
        except ENGINE_ERRORS as error:
            reasons.append(str(error).partition("\n")[0])
    raise OpenPGPError("unsupported", f"the secret key cannot be unlocked: {reasons[0]}")


def _decryption_keys(secret: bytes, wanted: Collection[str]) -> dict[str, bytes]:
    """Return, by key ID, secret keys that hold one of the wanted keys each: Sequoia uses the first that it finds."""
    groups: list[list[packets.Packet]] = []
    for packet in packets.read_packets(secret, MAX_PACKETS):
        if packet.tag == packets.SECRET_SUBKEY or not groups:
            groups.append([])
        groups[-1].append(packet)
    base = b"".join(packet.raw for packet in groups[0])
    found = {}
    for group in groups:
        key_id = (next(iter(PacketPile.from_bytes(group[0].raw))).key_id or "").upper()
        if key_id in wanted:
            found[key_id] = base if group is groups[0] else base + b"".join(packet.raw for packet in group)
    return found
