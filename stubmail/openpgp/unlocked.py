"""The identity whose secret key is at hand: Sequoia does the work, thousands of messages a second."""

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import pysequoia
from pysequoia.packet import PacketPile

from stubmail.openpgp import packets
from stubmail.openpgp.agent import AgentIdentity
from stubmail.openpgp.certificate import ENGINE_ERRORS, MAX_PACKETS, Certificate
from stubmail.openpgp.errors import OpenPGPError
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.identity import CertificateOf, Identity, Sealed, Unsealed
from stubmail.openpgp.inner import SignerLookup
from stubmail.openpgp.message import ANYONE, EncryptedMessage
from stubmail.openpgp.operations import recipient_keys, seal_with
from stubmail.openpgp.sandbox import Answer, EngineRefusal, Job, Sandbox


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

    def prepare(self) -> None:
        self._sandbox.prepare()

    def decrypt(self, data: bytes, max_size: int) -> bytes:
        for index, message in self._attempts(data):
            try:
                return self._sandbox.decrypt(Job(index, message, None, max_size))[0]
            except EngineRefusal:
                continue
        return self._agent.decrypt(data, max_size)

    def unseal(self, data: bytes, certificate_of: CertificateOf, max_size: int) -> Unsealed:
        opening = self._begin(Sealed(data, certificate_of), max_size)
        return self._conclude(opening, self._next_attempt(opening), max_size)

    def unseal_all(self, messages: Iterable[Sealed], max_size: int) -> Generator[Unsealed | OpenPGPError]:
        openings: deque[_Opening] = deque()

        def first_attempts() -> Iterator[Job | None]:
            for sealed in messages:
                openings.append(opening := self._begin(sealed, max_size))
                yield opening.attempts.pop(0) if opening.attempts else None

        with closing(self._sandbox.decrypt_all(first_attempts())) as answers:
            for answer in answers:
                try:
                    yield self._conclude(openings.popleft(), answer, max_size)
                except OpenPGPError as error:
                    yield error

    def _begin(self, sealed: Sealed, max_size: int) -> "_Opening":
        lookup = SignerLookup(sealed.certificate_of)
        try:
            attempts = self._attempts(sealed.data)
        except OpenPGPError as error:
            return _Opening(sealed, lookup, [], error)
        return _Opening(sealed, lookup, [Job(index, message, lookup, max_size) for index, message in attempts])

    def _conclude(self, opening: "_Opening", answer: Answer | EngineRefusal | None, max_size: int) -> Unsealed:
        """Return what Sequoia's first answer, further attempts and GnuPG make of a message. Raises OpenPGPError."""
        if opening.error:
            raise opening.error
        while answer:
            if not isinstance(answer, EngineRefusal):
                return Unsealed(answer[0], opening.lookup.one_of(answer[1]))
            if opening.lookup.refusal:
                raise opening.lookup.refusal
            answer = self._next_attempt(opening)
        return self._agent.unseal(opening.sealed.data, opening.sealed.certificate_of, max_size)

    def _next_attempt(self, opening: "_Opening") -> Answer | EngineRefusal | None:
        try:
            return self._sandbox.decrypt(opening.attempts.pop(0)) if opening.attempts else None
        except EngineRefusal as refusal:
            return refusal

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


class _Opening(NamedTuple):
    """A message on its way through the engines: who may have signed it, what is still to be tried, what is wrong."""

    sealed: Sealed
    lookup: SignerLookup
    attempts: list[Job]
    error: OpenPGPError | None = None


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
