"""Writes vectors.json, the golden vectors for docs/protocol.md: python -m tests.data.make_vectors

All inputs stand here or in the files beside it, nothing is drawn at random: the same file comes out each time. What
cannot be computed twice, keys, signatures and ciphertext, was made once by make_openpgp.
"""

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from stubmail import datagram, frames
from stubmail.address import Address, AddressError
from stubmail.dns.records import RecordError, parse_post
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.frames import Frame
from stubmail.request import ACK, OPEN, STORE, Part, Request, mac

HERE = Path(__file__).resolve().parent
VECTORS = HERE / "vectors.json"

HOST = "post.alpha.example"
ALICE, BOB = Address.parse("alice@alpha.example"), Address.parse("bob@beta.example")
WHEN = datetime(2020, 1, 2, 9, tzinfo=UTC)  # later than the keys, earlier than any clock that the tests run under
FIRST, SECOND, THIRD = (bytes.fromhex(digits * 16) for digits in ("11", "22", "a3"))  # post ids
COOKIE, NONCE = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
KEY, SECRET = bytes(range(0x40, 0x60)), bytes(range(0x60, 0x80))
SESSION = bytes(range(0x80, 0x90)).hex()
V4, V6 = "0123456789ABCDEF0123456789ABCDEF01234567", "89ABCDEF" * 8  # made-up fingerprints
MESSAGE = (
    b"From: Alice <alice@alpha.example>\r\n"
    b"To: Bob <bob@beta.example>\r\n"
    b"Subject: a first stub\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
    b"Gr\xc3\xbc\xc3\x9fe, Bob.\r\n"
    b".\r\n"
    b"From here on nothing is quoted.\r\n"
)

ADDRESSES = [
    "alice@alpha.example",
    "Bob.Smith@BETA.Example",
    "bob+lists@beta.example.",
    "jürgen@MÜNCHEN.example",
    "o'neil!#$%&*+/=?^_`{|}~-@a-b.example",
    "alice",
    "alice@",
    "@alpha.example",
    "alice@alpha..example",
    "alice@[192.0.2.1]",
    '"alice b"@alpha.example',
    ".alice@alpha.example",
    "alice@-alpha.example",
    f"{'a' * 65}@alpha.example",
]
POST_RECORDS = [
    ["10 5 8080 post.alpha.example. post_manager"],
    ["0 0 443 post.alpha.example cgi-bin/stubmail/post_manager"],
    ["65535 65535 65535   POST.Alpha.Example.   ~a/b-c._/d"],
    ["10 5 80", "80 post.alpha.exam", "ple. post_manager"],
    ["0 0 0 . x"],
    ["10 5 8080 post.alpha.example."],
    ["10 5 8080 post.alpha.example. a b"],
    ["10 5 65536 post.alpha.example. x"],
    ["10 5 0 post.alpha.example. x"],
    ["-1 5 8080 post.alpha.example. x"],
    ["+1 5 8080 post.alpha.example. x"],
    ["10 5 8080 192.0.2.1 x"],
    ["10 5 8080 post_.alpha..example x"],
    ["10 5 8080 höst.alpha.example x"],
    ["10 5 8080 post.alpha.example /x"],
    ["10 5 8080 post.alpha.example x/"],
    ["10 5 8080 post.alpha.example a//b"],
    ["10 5 8080 post.alpha.example a/../b"],
    ["10 5 8080 post.alpha.example ./a"],
    ["10 5 8080 post.alpha.example a?b"],
    ["10 5 8080 post.alpha.example a%2e"],
    [f"10 5 8080 post.alpha.example {'x' * 256}"],
    ["10\t5\t8080\tpost.alpha.example\tx"],
    [""],
]


def vectors() -> dict[str, Any]:
    """Everything that vectors.json holds. Octets are in hex, times Unix time, texts as in the protocol."""
    return {
        "protocol": "docs/protocol.md, version 1",
        "addresses": [_address(text) for text in ADDRESSES],
        "post_records": [_post_record(strings) for strings in POST_RECORDS],
        "datagrams": _datagrams(),
        "requests": _requests(),
        "frames": _frames(),
        "recipient_tags": _tags(),
        "envelope": _envelope(),
        "openpgp": _openpgp(),
    }


def open_request(certificate: bytes, fingerprint: str) -> bytes:
    """The octets of Alice's request for a session, as she signed them."""
    return Request(
        op=OPEN,
        host=HOST,
        time=int(WHEN.timestamp()),
        nonce=NONCE.hex(),
        parts=(Part(sha256(certificate).digest(), len(certificate)),),
        fingerprint=fingerprint,
        address=ALICE,
    ).to_wire()


def sealed_text(fingerprints: dict[str, str]) -> bytes:
    """What Alice signed and encrypted: to Bob as the first post, to herself as the second."""
    tags = (tag(FIRST, fingerprints["bob"], BOB), tag(SECOND, fingerprints["alice"], ALICE))
    return Envelope(ALICE, WHEN, fill_up(tags, _counter())).wrap(MESSAGE)


def _counter() -> Any:
    """In place of random octets: 00…01, 00…02 and so on."""
    numbers = iter(range(1, 2**16))
    return lambda size: next(numbers).to_bytes(size, "big")


def _address(text: str) -> dict[str, Any]:
    try:
        return {"text": text, "key": Address.parse(text).key}
    except AddressError:
        return {"text": text, "valid": False}


def _post_record(strings: list[str]) -> dict[str, Any]:
    try:
        record = parse_post([text.encode() for text in strings])
    except RecordError:
        return {"strings": strings, "valid": False}
    fields = {name: getattr(record, name) for name in ("priority", "weight", "port", "host", "prefix")}
    return {"strings": strings} | fields | ({"url": record.target.url} if record.host else {"offered": False})


def _datagrams() -> dict[str, Any]:
    waiting = [(0, 0), (3, 258), (2**32 - 1, 2**64 - 1)]
    token = datagram.Token(bytes(range(0xA0, 0xA0 + datagram.TOKEN_SIZE)), 421)
    return {
        "cookie": COOKIE.hex(),
        "nonce": NONCE.hex(),
        "key": KEY.hex(),
        "check": datagram.check_to_wire(COOKIE, NONCE, KEY).hex(),
        "waiting": [
            {
                "count": count,
                "serial": serial,
                "octets": datagram.waiting_to_wire(NONCE, count, serial, datagram.MacKey(KEY)).hex(),
            }
            for count, serial in waiting
        ],
        "unknown": datagram.unknown_to_wire(NONCE).hex(),
        "token_request": datagram.token_request_to_wire(NONCE).hex(),
        "token": {
            "token": token.octets.hex(),
            "lifetime": token.lifetime,
            "octets": datagram.token_to_wire(NONCE, token).hex(),
        },
    }


def _requests() -> dict[str, Any]:
    common = {"host": HOST, "time": int(WHEN.timestamp()), "nonce": NONCE.hex(), "session": SESSION}
    contents = [b"head for bob", b"one body", b"head for alice"]
    posts = [
        {"id": FIRST.hex(), "to": V4, "address": str(BOB), "head": 0, "body": 1},
        {"id": SECOND.hex(), "to": V6, "address": str(ALICE), "head": 2, "body": 1},
    ]
    store = Request(
        op=STORE,
        parts=tuple(Part(sha256(content).digest(), len(content)) for content in contents),
        members={"posts": posts},
        **common,  # type: ignore[arg-type]
    ).to_wire()
    ack = Request(op=ACK, members={"ids": [FIRST.hex()]}, **common).to_wire()  # type: ignore[arg-type]
    return {
        "secret": SECRET.hex(),
        "ack": {"request": ack.decode(), "mac": mac(SECRET, ack).hex()},
        "store": {
            "request": store.decode(),
            "mac": mac(SECRET, store).hex(),
            "parts": [content.hex() for content in contents],
        },
    }


def _frames() -> dict[str, Any]:
    content = b"head and body"
    sent = [
        (Frame(FIRST, frames.CONTENT, 0, len(content)), content),
        (Frame(SECOND, frames.CONTENT, 5, len(content[5:])), content[5:]),
        (Frame(THIRD, frames.ABSENT), b""),
        (Frame(COOKIE, frames.WITHDRAWN), b""),
        (Frame(NONCE, frames.CONTENT, len(content), 0), b""),
    ]
    return {
        "posts": [
            {"id": frame.id.hex(), "state": frame.state, "offset": frame.offset, "content": data.hex()}
            for frame, data in sent
        ],
        "octets": b"".join([*(frame.to_wire() + data for frame, data in sent), frames.END.to_wire()]).hex(),
    }


def _tags() -> list[dict[str, str]]:
    wanted = [(FIRST, V4, "bob@beta.example"), (FIRST, V6, "bob@beta.example"), (THIRD, V4, "Jürgen@MÜNCHEN.example")]
    return [
        {"post": post.hex(), "fingerprint": key, "address": text, "tag": tag(post, key, Address.parse(text)).hex()}
        for post, key, text in wanted
    ]


def _envelope() -> dict[str, Any]:
    tags = fill_up([tag(FIRST, V4, BOB)], _counter())
    return {
        "from": str(ALICE),
        "date": int(WHEN.timestamp()),
        "tags": [one.hex() for one in tags],
        "message": MESSAGE.hex(),
        "octets": Envelope(ALICE, WHEN, tags).wrap(MESSAGE).hex(),
    }


def _openpgp() -> dict[str, Any]:
    made = HERE / "openpgp"
    fingerprints = json.loads((made / "fingerprints.json").read_text())
    certificate = (made / "alice.certificate").read_bytes()
    return {
        "keys": "tests/data/keys, without passphrases: whoever trusts them trusts everybody",
        "fingerprints": fingerprints,
        "open": {
            "request": open_request(certificate, fingerprints["alice"]).decode(),
            "signature": (made / "open.signature").read_bytes().hex(),
            "certificate": certificate.hex(),
        },
        "text": sealed_text(fingerprints).hex(),
        "body": (made / "post.body").read_bytes().hex(),
        "posts": [
            {"id": post.hex(), "to": fingerprints[name], "head": (made / f"{name}.head").read_bytes().hex()}
            for name, post in (("bob", FIRST), ("alice", SECOND))
        ],
    }


def formatted() -> str:
    """The text of vectors.json."""
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(formatted(), encoding="utf-8")
