"""The golden vectors: they are what the generator gives, and what docs/protocol.md says, computed here by hand.

Nothing of stubmail computes an expectation here; it only has to agree with them.
"""

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stubmail import openpgp
from stubmail.address import Address, AddressError
from stubmail.datagram import (
    Check,
    MacKey,
    Token,
    Unknown,
    Waiting,
    answer_from_wire,
    token_from_wire,
    token_request_from_wire,
)
from stubmail.dns.records import RecordError, parse_post
from stubmail.envelope import tag, unwrap
from stubmail.frames import CONTENT, END, Frame, FrameReader
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.request import Request, fetch_posts, mac, post_ids, store_posts
from tests.data.make_vectors import VECTORS, formatted
from tests.support.gpg import GpgHome, gpg_home, need

KEYS = VECTORS.parent / "keys"
DATA: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
MAX_SIZE = 100_000


def octets(text: str) -> bytes:
    return bytes.fromhex(text)


def hmac_sha256(key: str, data: bytes) -> bytes:
    return hmac.new(octets(key), data, hashlib.sha256).digest()


def test_the_file_is_what_the_generator_gives() -> None:
    assert VECTORS.read_text(encoding="utf-8") == formatted(), "run python -m tests.data.make_vectors"


# §1.1

KEYS_OF_ADDRESSES = {
    "alice@alpha.example": "alice@alpha.example",
    "Bob.Smith@BETA.Example": "bob.smith@beta.example",
    "bob+lists@beta.example.": "bob+lists@beta.example",
    "jürgen@MÜNCHEN.example": "jürgen@xn--mnchen-3ya.example",
    "o'neil!#$%&*+/=?^_`{|}~-@a-b.example": "o'neil!#$%&*+/=?^_`{|}~-@a-b.example",
}


def test_address_keys() -> None:
    assert {one["text"]: one["key"] for one in DATA["addresses"] if "key" in one} == KEYS_OF_ADDRESSES
    refused = [one["text"] for one in DATA["addresses"] if one.get("valid") is False]
    assert len(refused) == len(DATA["addresses"]) - len(KEYS_OF_ADDRESSES)
    for text, key in KEYS_OF_ADDRESSES.items():
        assert Address.parse(text).key == key
    for text in refused:
        with pytest.raises(AddressError):
            Address.parse(text)


# §3.1

POST_RECORDS = {
    "10 5 8080 post.alpha.example. post_manager": "http://post.alpha.example:8080/post_manager",
    "0 0 443 post.alpha.example cgi-bin/stubmail/post_manager": "https://post.alpha.example/cgi-bin/stubmail/post_manager",
    "65535 65535 65535   POST.Alpha.Example.   ~a/b-c._/d": "http://post.alpha.example:65535/~a/b-c._/d",
    "10 5 8080 post.alpha.exam" + "ple. post_manager": "http://post.alpha.example:8080/post_manager",
    "0 0 0 . x": None,
}


def test_post_records() -> None:
    good = [one for one in DATA["post_records"] if one.get("valid") is not False]
    assert {"".join(one["strings"]) for one in good} == POST_RECORDS.keys()
    for one in good:
        joined = "".join(one["strings"])
        priority, weight, port, host, prefix = (field for field in joined.split(" ") if field)
        assert (one["priority"], one["weight"], one["port"]) == (int(priority), int(weight), int(port))
        assert (one["host"], one["prefix"]) == (host.lower().rstrip("."), prefix)
        assert one.get("url") == POST_RECORDS[joined]
        record = parse_post([text.encode() for text in one["strings"]])
        assert (record.priority, record.weight, record.port) == (int(priority), int(weight), int(port))
        assert (record.host, record.prefix) == (one["host"], one["prefix"])
        assert not record.host or record.target.url == one["url"]
    for one in DATA["post_records"]:
        if one not in good:
            with pytest.raises(RecordError):
                parse_post([text.encode() for text in one["strings"]])


# §6


def test_datagrams() -> None:
    data = DATA["datagrams"]
    cookie, nonce, key = octets(data["cookie"]), octets(data["nonce"]), data["key"]
    assert (len(cookie), len(nonce), len(octets(key))) == (16, 16, 32)

    check = b"STUB" + bytes((1, 1, 0, 0)) + cookie + nonce
    check += hmac_sha256(key, check)
    assert octets(data["check"]) == check
    assert len(check) == 72
    assert Check.from_wire(check).authentic(MacKey(octets(key)))

    for one in data["waiting"]:
        answer = b"STUB" + bytes((1, 2, 0, 0)) + nonce
        answer += one["count"].to_bytes(4, "big") + one["serial"].to_bytes(8, "big")
        answer += hmac_sha256(key, answer)
        assert octets(one["octets"]) == answer
        assert len(answer) == 68
        assert answer_from_wire(answer, nonce, octets(key)) == Waiting(one["count"], one["serial"])

    unknown = b"STUB" + bytes((1, 3, 0, 0)) + nonce
    assert octets(data["unknown"]) == unknown
    assert len(unknown) == 24
    assert answer_from_wire(unknown, nonce, octets(key)) == Unknown()

    request = b"STUB" + bytes((1, 4, 0, 0)) + nonce + bytes(48)
    assert octets(data["token_request"]) == request
    assert len(request) == 72
    assert token_request_from_wire(request) == nonce

    token = data["token"]
    answer = b"STUB" + bytes((1, 5, 0, 0)) + nonce + octets(token["token"]) + token["lifetime"].to_bytes(4, "big")
    assert octets(token["octets"]) == answer
    assert len(answer) == 48
    assert token_from_wire(answer, nonce) == Token(octets(token["token"]), token["lifetime"])


# §4, §5


def test_requests() -> None:
    data = DATA["requests"]
    for name in ("ack", "store"):
        text = data[name]["request"].encode()
        assert octets(data[name]["mac"]) == hmac_sha256(data["secret"], text) == mac(octets(data["secret"]), text)
        members = json.loads(text)
        assert members["version"] == 1
        assert (members["op"], members["host"], members["time"]) == (name, "post.alpha.example", 1577955600)
        assert len(octets(members["nonce"])) == len(octets(members["session"])) == 16
        request = Request.from_wire(text)
        assert (request.op, request.session, request.nonce) == (name, members["session"], members["nonce"])
    assert post_ids(Request.from_wire(data["ack"]["request"].encode())) == [b"\x11" * 16]


def test_a_store_request() -> None:
    data = DATA["requests"]["store"]
    members = json.loads(data["request"])
    parts = [octets(part) for part in data["parts"]]
    assert members["parts"] == [{"sha256": hashlib.sha256(part).hexdigest(), "size": len(part)} for part in parts]
    contents = {post["id"]: parts[post["head"]] + parts[post["body"]] for post in members["posts"]}
    assert contents == {"11" * 16: b"head for bobone body", "22" * 16: b"head for aliceone body"}
    posts = store_posts(Request.from_wire(data["request"].encode()))
    assert [(post.id.hex(), post.to, str(post.address), post.head, post.body) for post in posts] == [
        (post["id"], post["to"], post["address"], post["head"], post["body"]) for post in members["posts"]
    ]
    with pytest.raises(Exception, match="malformed"):
        fetch_posts(Request.from_wire(data["request"].encode()))


def test_frames() -> None:
    data = DATA["frames"]
    wire = b""
    events: list[Frame | bytes] = []
    for post in data["posts"]:
        content = octets(post["content"])
        header = octets(post["id"]) + bytes([post["state"]]) + bytes(7)
        header += struct.pack(">Q", post["offset"]) + struct.pack(">Q", len(content))
        assert len(header) == 40
        wire += header + content
        events += [
            Frame(octets(post["id"]), post["state"], post["offset"], len(content)),
            *([content] if content else []),
        ]
    wire += bytes(16) + b"\xff" + bytes(23)
    assert octets(data["octets"]) == wire
    assert {post["state"] for post in data["posts"]} == {CONTENT, 1, 2}
    reader = FrameReader()
    assert reader.feed(wire) == [*events, END]
    reader.close()


# §7


def recipient_tag(post: str, fingerprint: str, key: str) -> str:
    text = b"stubmail recipient 1" + b"\0" + octets(post) + octets(fingerprint) + key.encode()
    return hashlib.sha256(text).hexdigest()[:32]


def test_recipient_tags() -> None:
    keys = {"bob@beta.example": "bob@beta.example", "Jürgen@MÜNCHEN.example": "jürgen@xn--mnchen-3ya.example"}
    for one in DATA["recipient_tags"]:
        assert one["tag"] == recipient_tag(one["post"], one["fingerprint"], keys[one["address"]])
        assert tag(octets(one["post"]), one["fingerprint"], Address.parse(one["address"])).hex() == one["tag"]
    assert {len(one["fingerprint"]) for one in DATA["recipient_tags"]} == {40, 64}


def block(tags: list[str]) -> bytes:
    lines = ["Stub-Version: 1", "Stub-From: alice@alpha.example", "Stub-Date: 2020-01-02T09:00:00Z"]
    return "".join(f"{line}\r\n" for line in [*lines, *(f"Stub-Recipient: {one}" for one in tags), ""]).encode()


def test_the_envelope() -> None:
    data = DATA["envelope"]
    assert data["date"] == 1577955600
    fillers = [f"{number:032x}" for number in range(1, 8)]
    wanted = sorted([DATA["recipient_tags"][0]["tag"], *fillers])
    assert data["tags"] == wanted
    assert octets(data["octets"]) == block(wanted) + octets(data["message"])
    envelope, message = unwrap(octets(data["octets"]))
    assert (str(envelope.sender), envelope.date.timestamp()) == (data["from"], data["date"])
    assert ([one.hex() for one in envelope.tags], message) == (wanted, octets(data["message"]))


# §4.1, §7.3: OpenPGP

OPENPGP = DATA["openpgp"]


@pytest.fixture(scope="module")
def bob() -> Iterator[GpgHome]:
    """Bob's GnuPG home, with Alice's certificate."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        home.run("--import", str(KEYS / "bob-test-key.secret.asc"), str(KEYS / "alice-test-key.public.asc"))
        yield home


def test_the_test_keys() -> None:
    for name, fingerprint in OPENPGP["fingerprints"].items():
        certificate = Certificate.parse((KEYS / f"{name}-test-key.public.asc").read_bytes())
        assert certificate.fingerprint == fingerprint
    alice = Certificate.parse(octets(OPENPGP["open"]["certificate"]))
    assert alice.fingerprint == OPENPGP["fingerprints"]["alice"]
    assert alice.addresses == {"alice@alpha.example"}


def test_a_signed_request() -> None:
    opening = OPENPGP["open"]
    certificate = octets(opening["certificate"])
    members = json.loads(opening["request"])
    assert members["parts"] == [{"sha256": hashlib.sha256(certificate).hexdigest(), "size": len(certificate)}]
    assert (members["fingerprint"], members["address"]) == (OPENPGP["fingerprints"]["alice"], "alice@alpha.example")
    assert Request.from_wire(opening["request"].encode()).fingerprint == members["fingerprint"]
    alice = Certificate.parse(certificate)
    openpgp.verify(opening["request"].encode(), octets(opening["signature"]), alice)
    with pytest.raises(OpenPGPError):
        openpgp.verify(opening["request"].encode() + b" ", octets(opening["signature"]), alice)


def test_a_signed_request_as_gpg_sees_it(bob: GpgHome, tmp_path: Path) -> None:
    opening = OPENPGP["open"]
    (tmp_path / "request").write_bytes(opening["request"].encode())
    (tmp_path / "signature").write_bytes(octets(opening["signature"]))
    done = bob.run("--status-fd=1", "--verify", str(tmp_path / "signature"), str(tmp_path / "request"))
    assert f"VALIDSIG {OPENPGP['fingerprints']['alice']}".encode() in done.stdout


def test_the_sealed_text_names_its_recipients() -> None:
    text = octets(OPENPGP["text"])
    tags = [
        recipient_tag(post["id"], post["to"], address)
        for post, address in zip(OPENPGP["posts"], ("bob@beta.example", "alice@alpha.example"), strict=True)
    ]
    fillers = [f"{number:032x}" for number in range(1, 7)]
    assert text == block(sorted(tags + fillers)) + octets(DATA["envelope"]["message"])


def test_a_post_opens_with_gpg_decrypt(bob: GpgHome) -> None:
    for_bob, for_alice = (octets(post["head"]) + octets(OPENPGP["body"]) for post in OPENPGP["posts"])
    opened = bob.run("--status-fd=2", "--decrypt", data=for_bob)
    assert opened.stdout == octets(OPENPGP["text"])
    assert f"VALIDSIG {OPENPGP['fingerprints']['alice']}".encode() in opened.stderr
    assert b"No secret key" in bob.run("--decrypt", data=for_alice, ok=(2,)).stderr


def test_a_post_opens_with_stubmail(bob: GpgHome) -> None:
    keyring = Keyring(bob.path)
    for_bob, for_alice = (octets(post["head"]) + octets(OPENPGP["body"]) for post in OPENPGP["posts"])
    with keyring.identity(Address.parse("bob@beta.example")) as identity:
        unsealed = identity.unseal(for_bob, keyring.by_fingerprint, MAX_SIZE)
        assert (unsealed.data, unsealed.signer) == (octets(OPENPGP["text"]), OPENPGP["fingerprints"]["alice"])
        with pytest.raises(OpenPGPError) as caught:
            identity.unseal(for_alice, keyring.by_fingerprint, MAX_SIZE)
        assert caught.value.reason == "not-for-us"
        with pytest.raises(OpenPGPError) as caught:
            identity.unseal(for_bob, lambda _: None, MAX_SIZE)
        assert caught.value.reason == "unknown-signer"


def test_the_sealed_message_splits_into_its_posts() -> None:
    heads = [octets(post["head"]) for post in OPENPGP["posts"]]
    body = octets(OPENPGP["body"])
    assert openpgp.split(b"".join(heads) + body) == (heads, body)
