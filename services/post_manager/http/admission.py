"""Who may come in: the checks before any work is done, the cheap ones first (protocol.md §4.3)."""

import contextlib
import hmac
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.post_manager.http.multipart import MAX_HEADERS
from services.post_manager.http.parts import Parts
from services.post_manager.http.rate import Buckets
from services.post_manager.http.session_cache import SessionCache
from services.post_manager.http.upload import Upload
from services.post_manager.policy import Accounts
from services.post_manager.storage import nonces
from services.post_manager.storage.database import Database
from services.post_manager.storage.nonces import Nonce, Replayed
from services.post_manager.storage.sessions import Session
from stubmail.address import Address
from stubmail.counted import counted
from stubmail.limits import network
from stubmail.openpgp import Certificate, OpenPGPError, verify
from stubmail.request import (
    ACK,
    CLOCK_SKEW,
    MAX_CERTIFICATE,
    MAX_REQUEST,
    MAX_SIGNATURE,
    OPEN,
    STORE,
    WITHDRAW,
    Refusal,
    Request,
    mac,
)

# Octets of a request, but for a ``store``: three parts, and what stands around them.
_MAX_SMALL = MAX_REQUEST + MAX_SIGNATURE + MAX_CERTIFICATE + 4 * (MAX_HEADERS + 256)
# Octets of a request whose nonce is remembered in the transaction that does the work; that of a larger one is
# remembered before more is read: a replay must not cost so much.
_MAX_TOGETHER = 262_144


@dataclass(frozen=True, slots=True)
class Admitted:
    """An authentic request: whose it is, and for an ``open`` the certificate that signed it.

    ``nonce``, if there is one, has to be remembered in the transaction that does what the request asks for.
    """

    request: Request
    fingerprint: str
    address: str
    certificate: Certificate | None = None
    nonce: Nonce | None = None


class Gate:
    """Lets authentic requests for this store pass, each once. For all threads of a process."""

    def __init__(
        self,
        host: str,
        database: Database,
        incoming: Path,
        clock: Callable[[], float],
        *,
        by_network: Buckets,
        by_client: Buckets,
        together: bool = True,
        accounts: Accounts | None = None,
    ) -> None:
        """``together``: what requests change is in the same database as their nonces.

        ``accounts`` may have rates of their own; theirs go over all sessions, anybody else's by session.
        """
        self._accounts = accounts or Accounts([])
        self._host = host
        self._database = database
        self._incoming = incoming
        self._clock = clock
        self._lock = threading.Lock()
        self._by_network = by_network
        self._by_client = by_client
        self._sessions = SessionCache(database)
        self._together = frozenset((STORE, ACK, WITHDRAW) if together else ())
        self._under_way: set[tuple[str, bytes]] = set()  # clients and nonces

    @contextlib.contextmanager
    def admit(self, parts: Parts, remote: str) -> Iterator[Admitted]:
        """Check a request whose method, media type and length were found good; the block does what it asks for.

        ``remote`` is the peer's address. Of a ``store`` the further parts are left to be read; any other body has been
        read to its end. Raises Refusal with the code of the first check that fails, and StorageError. The block may
        raise Replayed, which becomes a Refusal.
        """
        admitted, nonce = self._check(parts, remote)
        with self._only(nonce):
            if admitted.nonce is None:
                self._remember(nonce, admitted)
            try:
                yield admitted
            except Replayed:
                raise _replayed() from None
            except Refusal:
                if admitted.nonce is not None:  # it is not read again either
                    self._remember(nonce, admitted)
                raise
            if admitted.nonce is not None:
                self._count(nonce, admitted)

    @contextlib.contextmanager
    def _only(self, nonce: Nonce) -> Iterator[None]:
        """While the block lasts, any other request of this process with the same nonce is a replay."""
        key = nonce.client, nonce.nonce
        with self._lock:
            if key in self._under_way:
                raise _replayed()
            self._under_way.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(key)

    def _remember(self, nonce: Nonce, admitted: Admitted) -> None:
        if not nonces.remember(self._database, nonce):
            raise _replayed()
        self._count(nonce, admitted)

    def _count(self, nonce: Nonce, admitted: Admitted) -> None:
        # Only now: nobody can use up another's rate.
        key, rate = self._bucket(nonce.client, admitted.fingerprint, admitted.address)
        with self._lock:
            self._by_client.take(key, nonce.time, rate)

    def _bucket(self, client: str, fingerprint: str, address: Address | str) -> tuple[str, int | None]:
        """Return whose rate a client's requests count against, and that rate when it is an account's own."""
        account = self._accounts.of(fingerprint, address)
        return (client, None) if account is None else (account.fingerprint, account.rate)

    def _check(self, parts: Parts, remote: str) -> tuple[Admitted, Nonce]:
        """Return who asks for what, and the nonce, which nobody has remembered yet: only one that is authentic counts.

        A replay is looked up at once only where the checks that follow are dear. The others pass them, and then find
        the nonce remembered; or fail, and are told so only if they are not replays.
        """
        length = parts.unread
        data = _named(parts, "request", MAX_REQUEST)
        request = Request.from_wire(data)
        proof = _named(parts, "signature" if request.op == OPEN else "mac", MAX_SIGNATURE)
        self._check_shape(request, length, parts)
        certificate = self._receive_certificate(request, parts) if request.op == OPEN else None
        if request.host != self._host:
            raise Refusal("wrong-host", "this store has another name")
        now = int(self._clock())
        self._check_time(request.time, now)
        nonce = Nonce(request.session or request.fingerprint, bytes.fromhex(request.nonce), now)
        if certificate is not None:
            self._refuse_seen(nonce)
            self._check_network_rate(network(remote), now)
            if request.address is not None:
                self._check_client_rate(nonce.client, request.fingerprint, request.address, now)
            return self._check_signature(request, data, proof, certificate), nonce
        try:
            self._check_network_rate(network(remote), now)
            session = self._check_mac(request, data, proof, now)
        except Refusal:
            self._refuse_seen(nonce)
            raise
        together = request.op in self._together and length <= _MAX_TOGETHER
        return Admitted(request, session.fingerprint, session.address, nonce=nonce if together else None), nonce

    def _refuse_seen(self, nonce: Nonce) -> None:
        with self._database.read() as connection:
            if nonces.seen(connection, nonce):
                raise _replayed()

    def _check_shape(self, request: Request, length: int, parts: Parts) -> None:
        """The frame as far as the request's JSON tells it."""
        total = sum(part.size for part in request.parts)
        if request.op == STORE:
            if total > length:
                raise Refusal("malformed", "the further parts are larger than the body")
            return
        if length > _MAX_SMALL or total > MAX_CERTIFICATE:
            raise Refusal("too-large", f"a request for {request.op} may have {_MAX_SMALL} octets")
        if len(request.parts) != (request.op == OPEN):
            raise Refusal("malformed", f"a request for {request.op} has another number of parts")
        if request.op != OPEN:
            parts.end()

    def _receive_certificate(self, request: Request, parts: Parts) -> bytes:
        with Upload(self._incoming) as upload:
            return upload.receive(parts, "certificate", request.parts)[0].read()

    def _check_time(self, time: int, now: int) -> None:
        off = time - now
        if abs(off) > CLOCK_SKEW:
            text = f"your clock is {abs(off)} seconds {'fast' if off > 0 else 'slow'}, {CLOCK_SKEW} are allowed"
            raise Refusal("clock-skew", text)

    def _check_network_rate(self, peer: str, now: float) -> None:
        with self._lock:
            delay = self._by_network.delay(peer, now)
            self._by_network.take(peer, now)
        _wait(delay)

    def _check_client_rate(self, client: str, fingerprint: str, address: Address | str, now: float) -> None:
        """A session that does not exist has used up no rate: this may come when it was found."""
        key, rate = self._bucket(client, fingerprint, address)
        with self._lock:
            delay = self._by_client.delay(key, now, rate)
        _wait(delay)

    def _check_signature(self, request: Request, data: bytes, signature: bytes, binary: bytes) -> Admitted:
        if request.address is None:
            raise Refusal("malformed", "an open names an address")
        try:
            certificate = Certificate.parse(binary)
        except OpenPGPError as error:
            raise Refusal("certificate", f"the certificate cannot be used: {error.text}") from error
        if certificate.fingerprint != request.fingerprint:
            raise Refusal("certificate", "the certificate has another fingerprint")
        if request.address.key not in certificate.addresses:
            raise Refusal("certificate", "the certificate has no valid user ID with that address")
        try:
            verify(data, signature, certificate)
        except OpenPGPError as error:
            raise Refusal("signature", "the signature is not good") from error
        return Admitted(request, request.fingerprint, str(request.address), certificate)

    def _check_mac(self, request: Request, data: bytes, proof: bytes, now: int) -> Session:
        session = self._sessions.find(bytes.fromhex(request.session), now)
        if session is None:
            raise Refusal("session", "there is no such session; open a new one")
        self._check_client_rate(request.session, session.fingerprint, session.address, now)
        if not hmac.compare_digest(proof, mac(session.secret, data)):
            raise Refusal("mac", "the MAC is not good")
        return session


def _named(parts: Parts, name: str, most: int) -> bytes:
    if parts.begin() != name:
        raise Refusal("malformed", f"the part {name} is not where it belongs")
    return parts.read(most)


def _wait(seconds: int) -> None:
    if seconds:
        raise Refusal("rate", f"too many requests; try again in {counted(seconds, 'second')}", retry_after=seconds)


def _replayed() -> Refusal:
    return Refusal("replayed", "that nonce was used before")
