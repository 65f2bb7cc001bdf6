"""What a bogus request costs the store, next to one that is good: processor time of the server's processes.

Some refusals close their connection: what they cost is next to a good request on a connection of its own.
"""

import contextlib
import itertools
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pysequoia

from bench import store_house
from bench.http_load import load, write_requests
from bench.store_house import HOST, Server, address_of, http_post, request
from bench.table import ROUNDS, Measurement, interleave, show
from services.post_manager.storage.sessions import Session
from stubmail import request as wire
from stubmail.address import Address
from stubmail.request import Part, Request

REQUESTS = 1_000  # a round, of each kind
OPENS = 200
CONNECTIONS = 4
NOBODY = "F" * 40
SIZE = 5_000  # octets of a post
HEAD = 94  # of these
LIST, STORE, OPEN, CLOSING = "list, good", "store, good", "open, good", "list, good, closing"
_EVE = "eve@beta.example"
_FORM = (
    f"POST /post_manager HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n"
)


class _Kind:
    """Requests of one kind, a file of them for each round; the last one is used again when there is no other."""

    def __init__(self, server: Server, status: str, files: Sequence[Path]) -> None:
        self._server = server
        self._status = status
        self._files = itertools.chain(files, itertools.repeat(files[-1]))

    def measure(self) -> float:
        """Return microseconds of the server's processor time for one request."""
        before = self._server.cpu_seconds()
        done = load(self._server.port, next(self._files), CONNECTIONS)
        number = sum(done.status.values())
        if done.status.get(self._status, 0) < 0.9 * number:  # a rate lets some pass
            raise SystemExit(f"expected {self._status}, but got {done.status}")
        return (self._server.cpu_seconds() - before) / number * 1e6


class _Opener:
    """Somebody with a certificate, who opens sessions."""

    def __init__(self) -> None:
        key = pysequoia.Tsk.generate(f"<{_EVE}>")
        certificate = key.extract_certificate()
        self._signer = key.signer()
        self._certificate = bytes(certificate)
        self._fingerprint = certificate.fingerprint.upper()

    def open(self, *, fingerprint: str = "", garble: bool = False) -> bytes:
        """Return a request that opens a session; with another fingerprint, or with a signature over something else."""
        part = Part(sha256(self._certificate).digest(), len(self._certificate))
        data = Request(
            op=wire.OPEN,
            host=HOST,
            time=int(time.time()),
            nonce=secrets.token_hex(16),
            parts=(part,),
            fingerprint=fingerprint or self._fingerprint,
            address=Address.parse(_EVE),
        ).to_wire()
        signed = data + b" " if garble else data
        mode = pysequoia.SignatureMode.DETACHED
        signature = bytes(pysequoia.sign(self._signer, signed, mode=mode, armor=False))
        return http_post([("request", data), ("signature", signature), ("certificate", self._certificate)])


def _listing(session: Session, **spoil: Any) -> bytes:
    members = {"senders": [NOBODY], "after": 0, "limit": 1000}
    return request(session, "list", members, **spoil)


def _stores(session: Session, number: int, *, lie: bool = False) -> Iterator[bytes]:
    head, body = secrets.token_bytes(HEAD), secrets.token_bytes(SIZE - HEAD)
    for _ in range(number):
        post = {"id": secrets.token_hex(16), "to": NOBODY, "address": address_of(NOBODY)}
        octets = request(session, "store", {"posts": [post | {"head": 0, "body": 1}]}, [head, body])
        yield octets.replace(body, bytes(len(body)), 1) if lie else octets


class _Kinds:
    """Writes the requests of each kind into files of ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self.measures: dict[str, Measurement] = {}

    def add(self, name: str, server: Server, status: str, *rounds: Iterable[bytes]) -> None:
        """Add a kind, with the requests of each round."""
        files = [self.write(requests) for requests in rounds]
        self.measures[name] = _Kind(server, status, files).measure

    def write(self, requests: Iterable[bytes]) -> Path:
        """Write some requests."""
        path = self._directory / f"{next(self._numbers)}"
        write_requests(path, requests)
        return path


def _add_kept(kinds: _Kinds, store: Server, known: Session, stranger: Session) -> None:
    """What is answered on a kept connection."""
    fresh = [range(REQUESTS)] * (ROUNDS + 1)  # what is authentic must be new each time; one round to get warm

    def bogus(name: str, status: str, octets: bytes) -> None:
        kinds.add(name, store, status, [octets] * REQUESTS)

    lost = replace(known, id=bytes(16))
    forged = replace(known, secret=bytes(32))
    replay = _listing(known)
    load(store.port, kinds.write([replay])).expect("200")
    kinds.add(LIST, store, "200", *([_listing(known) for _ in one] for one in fresh))
    kinds.add(STORE, store, "200", *(_stores(known, REQUESTS) for _ in fresh))
    bogus("method", "405", f"GET /post_manager HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    bogus("malformed: no such part", "400", http_post([("nothing", bytes(500))]))
    bogus("malformed: no JSON", "400", http_post([("request", bytes(500)), ("mac", bytes(32))]))
    bogus("wrong-host", "421", _listing(known, host="post.beta.example"))
    bogus("clock-skew", "403", _listing(known, time=int(time.time()) - 4_000))
    bogus("session", "401", _listing(lost))
    bogus("mac", "401", _listing(forged))
    bogus("replayed", "409", replay)
    kinds.add("mac, of a store", store, "401", _stores(forged, REQUESTS))
    kinds.add("account", store, "403", *(_stores(stranger, REQUESTS) for _ in fresh))
    kinds.add("digest", store, "400", *(_stores(known, REQUESTS, lie=True) for _ in fresh))


def _add_opens(kinds: _Kinds, store: Server) -> None:
    """What nobody needs a session for."""
    eve = _Opener()
    kinds.add(OPEN, store, "200", *([eve.open() for _ in range(OPENS)] for _ in range(ROUNDS + 1)))
    kinds.add("certificate", store, "400", [eve.open(fingerprint="0" * 40) for _ in range(OPENS)])
    kinds.add("signature", store, "401", [eve.open(garble=True) for _ in range(OPENS)])


def _add_closing(kinds: _Kinds, store: Server, guarded: Server, known: Session) -> None:
    """What ends its connection."""

    def bogus(name: str, status: str, head: str, server: Server = store) -> None:
        kinds.add(name, server, status, [f"{head}\r\n".encode()] * REQUESTS)

    closing = b"User-Agent: stubmail\r\n", b"Connection: close\r\n", 1
    fresh = ([_listing(known).replace(*closing) for _ in range(REQUESTS)] for _ in range(ROUNDS + 1))
    kinds.add(CLOSING, store, "200", *fresh)
    bogus("media-type", "415", f"{_FORM.replace('multipart/form-data', 'text/plain')}Content-Length: 500\r\n")
    bogus("length-required", "411", f"{_FORM}Transfer-Encoding: chunked\r\n")
    bogus("too-large", "413", f"{_FORM}Content-Length: {2**30}\r\n")
    bogus("token", "403", f"{_FORM}Content-Length: 500\r\n", guarded)


def _show(measures: Mapping[str, Measurement], peer: str, title: str) -> None:
    for measure in measures.values():
        measure()  # to get warm
    show(title, "µs of processor time for a request", interleave(measures), peer)


def main() -> None:
    """Measure and show."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stubmail-bench-")))
        account, stranger = store_house.fingerprints(2)
        house = stack.enter_context(store_house.house([account]))
        store = stack.enter_context(house.serve())
        known = house.session(account)
        kept = _Kinds(directory)
        _add_kept(kept, store, known, house.session(stranger))
        limited = stack.enter_context(stack.enter_context(store_house.house(rate_network=1)).serve())
        load(limited.port, kept.write([_listing(known)] * 200))  # uses up what there is
        kept.add("rate", limited, "429", [_listing(known)] * REQUESTS)
        _show(kept.measures, LIST, f"Requests with a MAC, {CONNECTIONS} connections")
        opens = _Kinds(directory)
        _add_opens(opens, store)
        _show(opens.measures, OPEN, "Requests with a signature")
        demanding = stack.enter_context(store_house.house(udp=True, require_udp=True, token_exempt=[]))
        guarded = stack.enter_context(demanding.serve())
        closing = _Kinds(directory)
        _add_closing(closing, store, guarded, known)
        _show(closing.measures, CLOSING, "Requests on a connection each")


if __name__ == "__main__":
    main()
