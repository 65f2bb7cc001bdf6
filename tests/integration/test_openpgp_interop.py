"""Each engine reads what the other writes, and what neither should read is refused: with the real gpg."""

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pysequoia
import pytest
from pysequoia.packet import Tag

from stubmail.address import Address
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate, Identity, OpenPGPError, encrypt, split, verify
from stubmail.openpgp.agent import AgentIdentity
from stubmail.openpgp.gnupg import GnuPG
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.keys import make_key, packets_of, public, tags_of

ALICE = Address.parse("alice@alpha.example")
BOB = Address.parse("bob@beta.example")
CAROL = Address.parse("carol@beta.example")
DAVE = Address.parse("dave@beta.example")
PASSPHRASE = "correct hörse"
TEXT = b"Subject: h\xc3\xa9llo\r\n\r\n" + bytes(range(256)) * 8
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def home() -> Iterator[GpgHome]:
    """A home with everybody's secret keys; only Dave's has a passphrase."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        keyring = Keyring(home.path)
        for address in (ALICE, BOB, CAROL):
            keyring.generate(address, address.local.title())
        keyring.generate(DAVE, "Dave", PASSPHRASE)
        yield home


@pytest.fixture(scope="module")
def keyring(home: GpgHome) -> Keyring:
    return Keyring(home.path)


@pytest.fixture(scope="module")
def alice(keyring: Keyring) -> Iterator[Identity]:
    with keyring.identity(ALICE) as identity:
        yield identity


@pytest.fixture(scope="module")
def bob(keyring: Keyring) -> Iterator[Identity]:
    with keyring.identity(BOB) as identity:
        yield identity


@pytest.fixture(scope="module")
def carol(keyring: Keyring, home: GpgHome) -> Identity:
    """Carol's key is used through gpg alone, as if it were on a card."""
    return AgentIdentity(keyring.export(CAROL), GnuPG(home.path))


@pytest.fixture(params=["bob", "carol"])
def reader(request: pytest.FixtureRequest) -> Identity:
    """Someone to write to: once with Sequoia in front, once with gpg alone."""
    identity = request.getfixturevalue(request.param)
    assert isinstance(identity, Identity)
    return identity


def gpg_seal(home: GpgHome, *options: str, to: Identity, text: bytes = TEXT) -> bytes:
    base = ("--trust-model", "always", "--local-user", ALICE.key, "--recipient", to.fingerprint)
    if options[-1] in ("3DES", "CAST5", "BLOWFISH") and home.version >= (2, 4):
        base += ("--allow-old-cipher-algos",)
    return home.run(*base, *options, data=text).stdout


def refusal(identity: Identity, message: bytes, keyring: Keyring, limit: int = LIMIT) -> str:
    with pytest.raises(OpenPGPError) as error:
        identity.unseal(message, keyring.by_fingerprint, limit)
    return error.value.reason


GPG_MESSAGES = {
    "uncompressed": ("-se", "-z0"),
    "default": ("-se",),
    "zip": ("-se", "--compress-algo", "zip"),
    "zlib": ("-se", "--compress-algo", "zlib"),
    "bzip2": ("-se", "--compress-algo", "bzip2"),
    "aes": ("-se", "-z0", "--cipher-algo", "AES"),
    "twofish": ("-se", "-z0", "--cipher-algo", "TWOFISH"),
    "camellia": ("-se", "-z0", "--cipher-algo", "CAMELLIA256"),
    "3des": ("-se", "-z0", "--cipher-algo", "3DES"),
    "cast5": ("-se", "-z0", "--cipher-algo", "CAST5"),
    "blowfish": ("-se", "-z0", "--cipher-algo", "BLOWFISH"),
    "sha256": ("-se", "-z0", "--digest-algo", "SHA256"),
    "hidden recipient": ("-se", "-z0", "--throw-keyids"),
    "several recipients": ("-se", "-z0", "--recipient", ALICE.key),
    "named": ("-se", "-z0", "--set-filename", "x" * 200),
}


@pytest.mark.parametrize("options", GPG_MESSAGES.values(), ids=GPG_MESSAGES.keys())
def test_what_gpg_seals_we_unseal(home: GpgHome, keyring: Keyring, reader: Identity, options: tuple[str, ...]) -> None:
    unsealed = reader.unseal(gpg_seal(home, *options, to=reader), keyring.by_fingerprint, LIMIT)
    assert unsealed.data == TEXT
    assert unsealed.signer == keyring.export(ALICE).fingerprint


@pytest.mark.parametrize("size", [0, 1, 8192, 300_000, 27_000_000])
def test_every_size_is_unsealed(home: GpgHome, keyring: Keyring, reader: Identity, size: int) -> None:
    text = os.urandom(size)
    for options in (("-se",), ("-se", "-z0")):
        assert reader.unseal(gpg_seal(home, *options, to=reader, text=text), keyring.by_fingerprint, size).data == text


def test_text_mode_keeps_the_line_ends_of_the_wire(home: GpgHome, keyring: Keyring, reader: Identity) -> None:
    message = gpg_seal(home, "-se", "--textmode", to=reader, text=b"one\ntwo\n")
    assert reader.unseal(message, keyring.by_fingerprint, LIMIT).data == b"one\r\ntwo\r\n"


@pytest.mark.parametrize("options", [("-e",), ("-e", "-z0"), ("-e", "--compress-algo", "bzip2")])
def test_what_gpg_only_encrypts_is_unsigned_but_can_be_decrypted(
    home: GpgHome, keyring: Keyring, reader: Identity, options: tuple[str, ...]
) -> None:
    message = gpg_seal(home, *options, to=reader)
    assert refusal(reader, message, keyring) == "unsigned"
    assert reader.decrypt(message, LIMIT) == TEXT
    with pytest.raises(OpenPGPError):
        reader.decrypt(message, len(TEXT) - 1)


@pytest.mark.parametrize("digest", ["SHA1", "RIPEMD160"])
@pytest.mark.parametrize("compression", ["-z0", "-z6"])
def test_weak_signatures_are_refused(
    home: GpgHome, keyring: Keyring, reader: Identity, digest: str, compression: str
) -> None:
    message = gpg_seal(home, "-se", compression, "--digest-algo", digest, to=reader)
    assert refusal(reader, message, keyring) == "bad-signature"


def test_a_message_without_integrity_protection_is_refused(home: GpgHome, keyring: Keyring, reader: Identity) -> None:
    message = gpg_seal(home, "-se", "-z0", "--rfc2440", "--cipher-algo", "3DES", to=reader)
    assert refusal(reader, message, keyring) == "unsupported"


@pytest.mark.parametrize("compression", ["-z0", "-z6"])
def test_strangers_and_damage_are_refused(home: GpgHome, keyring: Keyring, reader: Identity, compression: str) -> None:
    message = gpg_seal(home, "-se", compression, to=reader)
    for name, certificate in (("unknown-signer", None), ("bad-signature", keyring.export(BOB))):
        with pytest.raises(OpenPGPError) as error:
            reader.unseal(message, lambda _handle, found=certificate: found, LIMIT)
        assert error.value.reason == name
    assert refusal(reader, message[:-1] + bytes([message[-1] ^ 1]), keyring) == "malformed"
    assert refusal(reader, message + b"\xc8\x01\x00", keyring) == "malformed"


def gpg_decrypt(home: GpgHome, message: bytes) -> tuple[bytes, str]:
    done = home.run("--status-fd", "2", "--decrypt", data=message)
    return done.stdout, done.stderr.decode("ascii", "replace")


@pytest.fixture(params=["alice", "carol"])
def writer(request: pytest.FixtureRequest) -> Identity:
    """Someone who writes: once with Sequoia, once with gpg."""
    identity = request.getfixturevalue(request.param)
    assert isinstance(identity, Identity)
    return identity


def test_what_we_seal_gpg_decrypts(home: GpgHome, keyring: Keyring, writer: Identity) -> None:
    text, status = gpg_decrypt(home, writer.seal(TEXT, [keyring.export(BOB)]))
    assert text == TEXT
    assert f"VALIDSIG {writer.fingerprint}" in status


def test_what_we_seal_is_never_compressed(home: GpgHome, keyring: Keyring, writer: Identity) -> None:
    message = writer.seal(b"\0" * 100_000, [keyring.export(BOB)])
    assert len(message) > 100_000
    assert tags_of(GnuPG(home.path).unwrap(message, BOB.key, "")) == [Tag.OnePassSig, Tag.Literal, Tag.Signature]


def test_heads_are_in_the_order_of_the_recipients(
    home: GpgHome, keyring: Keyring, writer: Identity, alice: Identity, bob: Identity, carol: Identity
) -> None:
    people = [carol, alice, bob]
    heads, body = split(writer.seal(TEXT, [person.certificate for person in people]))
    for head, person in zip(heads, people, strict=True):
        assert person.unseal(head + body, keyring.by_fingerprint, LIMIT).data == TEXT
        assert gpg_decrypt(home, head + body)[0] == TEXT


def test_what_we_encrypt_gpg_decrypts(home: GpgHome, keyring: Keyring) -> None:
    assert gpg_decrypt(home, encrypt(TEXT, keyring.export(BOB)))[0] == TEXT


def test_what_we_sign_gpg_verifies_and_the_other_way_round(
    home: GpgHome, writer: Identity, keyring: Keyring, tmp_path: Path
) -> None:
    path = tmp_path / "signature"
    path.write_bytes(writer.sign(TEXT))
    home.run("--verify", str(path), "-", data=TEXT)
    verify(TEXT, path.read_bytes(), writer.certificate)
    verify(TEXT, home.run("--local-user", ALICE.key, "--detach-sign", data=TEXT).stdout, keyring.export(ALICE))


def test_a_message_to_a_key_made_by_sequoia_is_one_that_gpg_reads(alice: Identity) -> None:
    key = make_key("Erin <erin@beta.example>")
    with gpg_home() as other:
        other.run("--import", data=bytes(key))
        for message in (
            alice.seal(TEXT, [Certificate.parse(public(key))]),
            encrypt(TEXT, Certificate.parse(public(key))),
        ):
            assert tags_of(message) == [Tag.PKESK, Tag.SEIP]
            assert pysequoia.decrypt(message, key.decryptor()).bytes == TEXT
            assert other.run("--decrypt", data=message, ok=(0, 2)).stdout == TEXT


def test_a_key_with_a_passphrase(home: GpgHome, keyring: Keyring, alice: Identity) -> None:
    message = alice.seal(TEXT, [keyring.export(DAVE)])
    packed = gpg_seal(home, "-se", to=alice)
    with keyring.identity(DAVE, PASSPHRASE) as dave:  # gpg 2.4 exports some keys so that only gpg can use them
        verify(TEXT, dave.sign(TEXT), dave.certificate)
        assert dave.unseal(message, keyring.by_fingerprint, LIMIT).data == TEXT
        packed = gpg_seal(home, "-se", to=dave)
        assert dave.unseal(packed, keyring.by_fingerprint, LIMIT).data == TEXT


def test_a_wrong_passphrase_is_told_at_once(home: GpgHome, keyring: Keyring) -> None:
    forget(home)
    for wrong in ("wrong", "two\nlines"):
        with pytest.raises(OpenPGPError) as error:
            keyring.identity(DAVE, wrong)
        assert error.value.reason == "wrong-passphrase"


def forget(home: GpgHome) -> None:
    """Let the agent forget every passphrase."""
    subprocess.run(["gpgconf", "--homedir", str(home.path), "--kill", "gpg-agent"], check=True)


def test_a_key_that_the_agent_has_unlocked_needs_no_passphrase(
    home: GpgHome, keyring: Keyring, alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    forget(home)
    with pytest.raises(OpenPGPError):  # nobody is there to type it
        keyring.identity(DAVE)
    GnuPG(home.path).sign(b"", keyring.export(DAVE).fingerprint, PASSPHRASE)
    message = alice.seal(TEXT, [keyring.export(DAVE)])
    GnuPG(home.path).unwrap(message, DAVE.key, PASSPHRASE)  # the agent remembers each subkey by itself
    dave = keyring.identity(DAVE)
    assert isinstance(dave, AgentIdentity)
    verify(TEXT, dave.sign(TEXT), dave.certificate)
    assert dave.unseal(message, keyring.by_fingerprint, LIMIT).data == TEXT
    assert alice.unseal(dave.seal(TEXT, [alice.certificate]), keyring.by_fingerprint, LIMIT).signer == dave.fingerprint


@pytest.fixture
def changing() -> Iterator[GpgHome]:
    """A home whose keys a test changes."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield home


def made_then(home: GpgHome, when: str, user_id: str, expire: str) -> str:
    """Make a key as if it were another day, and return its fingerprint."""
    options = ("--faked-system-time", when)
    home.run(*options, "--quick-gen-key", user_id, "future-default", "default", expire)
    return home.fingerprints(user_id)[0]


def test_a_renewed_key_still_vouches_for_what_it_signed_before(changing: GpgHome) -> None:
    """Gpg replaces a self-signature when it changes an expiry date; Sequoia then misses the old one."""
    primary = made_then(changing, "20240101T000000", "Alice <alice@alpha.example>", "never")
    made_then(changing, "20240101T000000", "Bob <bob@beta.example>", "never")
    keyring = Keyring(changing.path)
    then = ("--faked-system-time", "20240601T000000!", "--trust-model", "always", "--local-user", primary)
    messages = [changing.run(*then, *how, "-se", "-r", BOB.key, data=TEXT).stdout for how in (["-z0"], [])]
    changing.run("--quick-set-expire", primary, "5y")
    with keyring.identity(BOB) as bob:
        for message in messages:
            assert bob.unseal(message, keyring.by_fingerprint, LIMIT).signer == primary
            with pytest.raises(OpenPGPError) as error:
                bob.unseal(message, lambda _handle: bob.certificate, LIMIT)
            assert error.value.reason == "bad-signature"


def test_expired_keys_neither_encrypt_nor_verify(changing: GpgHome, alice: Identity) -> None:
    made_then(changing, "20200101T000000", "Bob <bob@beta.example>", "1y")
    then = ("--faked-system-time", "20200601T000000")
    signature = changing.run(*then, "--detach-sign", data=TEXT).stdout
    keyring = Keyring(changing.path)
    certificate = keyring.export(BOB)
    for action in (
        lambda: keyring.identity(BOB),
        lambda: verify(TEXT, signature, certificate),
        lambda: encrypt(TEXT, certificate),
        lambda: alice.seal(TEXT, [certificate]),
    ):
        with pytest.raises(OpenPGPError) as error:
            action()
        assert error.value.reason == "expired"


def test_a_message_by_an_expired_signer_is_refused(changing: GpgHome, home: GpgHome, bob: Identity) -> None:
    made_then(changing, "20200101T000000", "Eve <eve@evil.example>", "1y")
    changing.run("--import", data=bob.certificate.data)
    for compression in ("-z0", "-z6"):
        message = changing.run(
            *("--faked-system-time", "20200601T000000!", "--trust-model", "always", "-se", compression),
            *("--recipient", bob.fingerprint),
            data=TEXT,
            ok=(0, 2),
        ).stdout
        if message:
            assert refusal(bob, message, Keyring(changing.path)) == "expired"


def test_an_expired_encryption_key_is_not_used_but_its_old_messages_are_read(changing: GpgHome) -> None:
    fingerprint = made_then(changing, "20200101T000000", "Bob <bob@beta.example>", "never")
    changing.run("--faked-system-time", "20200102T000000", "--quick-add-key", fingerprint, "cv25519", "encr", "1y")
    then = ("--faked-system-time", "20200601T000000", "--trust-model", "always", "-z0")
    old = changing.run(*then, "-se", "--recipient", fingerprint, data=TEXT).stdout
    keyring = Keyring(changing.path)
    keys = keyring.export(BOB).encryption_keys
    assert [key.expires is None for key in keys] == [False, True], "the newest first"
    with keyring.identity(BOB) as bob:
        new = bob.seal(TEXT, [bob.certificate])
        assert packets_of(old)[0].body[1:9].hex().upper() == keys[0].key_id
        assert packets_of(new)[0].body[1:9].hex().upper() == keys[1].key_id
        for message in (old, new):
            assert bob.unseal(message, keyring.by_fingerprint, LIMIT).data == TEXT


def test_rotated_encryption_keys_are_all_read(changing: GpgHome) -> None:
    primary = made_then(changing, "20240101T000000", "Bob <bob@beta.example>", "never")
    keyring = Keyring(changing.path)
    before = keyring.export(BOB)
    changing.run("--quick-add-key", primary, "cv25519", "encr", "never")
    both = keyring.export(BOB)
    assert len(both.encryption_keys) == 2
    with keyring.identity(BOB) as bob:
        for certificate in (before, both):
            message = bob.seal(TEXT, [certificate])
            assert tags_of(message) == [Tag.PKESK, Tag.SEIP]
            assert bob.unseal(message, keyring.by_fingerprint, LIMIT).data == TEXT
        everything = pysequoia.encrypt(TEXT, [pysequoia.Cert.from_bytes(both.data)], armor=False)
        for head in split(everything)[0]:
            assert bob.decrypt(head + split(everything)[1], LIMIT) == TEXT


def test_a_signature_by_a_subkey_counts_for_its_certificate(changing: GpgHome, bob: Identity) -> None:
    keyring = Keyring(changing.path)
    primary = keyring.generate(ALICE, "Alice").fingerprint
    changing.run("--quick-add-key", primary, "ed25519", "sign", "never")
    with keyring.identity(ALICE) as alice:
        assert bob.unseal(alice.seal(TEXT, [bob.certificate]), keyring.by_fingerprint, LIMIT).signer == primary
        verify(TEXT, alice.sign(TEXT), alice.certificate)
        signature = changing.run("--local-user", primary, "--detach-sign", data=TEXT).stdout
        assert packets_of(signature)[0].issuer_fingerprint != primary.lower(), "gpg prefers the subkey"
        verify(TEXT, signature, alice.certificate)


def test_an_offline_primary_key_is_no_hindrance(changing: GpgHome, bob: Identity) -> None:
    keyring = Keyring(changing.path)
    primary = keyring.generate(ALICE, "Alice").fingerprint
    changing.run("--quick-add-key", primary, "ed25519", "sign", "never")
    subkeys = changing.run("--export-secret-subkeys", primary).stdout
    with gpg_home() as laptop:
        laptop.run("--import", data=subkeys)
        with Keyring(laptop.path).identity(ALICE) as alice:
            sealed = alice.seal(TEXT, [bob.certificate])
            assert bob.unseal(sealed, keyring.by_fingerprint, LIMIT).signer == primary
            answer = bob.seal(TEXT, [alice.certificate])
            assert alice.unseal(answer, lambda _handle: bob.certificate, LIMIT).data == TEXT


def test_an_old_style_key_that_does_everything(changing: GpgHome, alice: Identity) -> None:
    changing.run("--quick-gen-key", "Bob <bob@beta.example>", "rsa2048", "sign,encrypt", "never")
    keyring = Keyring(changing.path)
    with keyring.identity(BOB) as bob:
        message = alice.seal(TEXT, [bob.certificate])
        assert bob.unseal(message, lambda _handle: alice.certificate, LIMIT).data == TEXT
        assert alice.unseal(bob.seal(TEXT, [alice.certificate]), keyring.by_fingerprint, LIMIT).data == TEXT


def test_third_party_signatures_and_photos_are_left_out(changing: GpgHome) -> None:
    keyring = Keyring(changing.path)
    alice, bob = keyring.generate(ALICE, "Alice"), keyring.generate(BOB, "Bob")
    changing.run("--local-user", alice.fingerprint, "--quick-sign-key", bob.fingerprint)
    exported = changing.export(bob.fingerprint)
    assert len(exported) > len(bob.data)
    assert Certificate.parse(exported) == bob == keyring.export(BOB)


def test_a_key_that_its_owner_revoked(changing: GpgHome, alice: Identity) -> None:
    keyring = Keyring(changing.path)
    bob = keyring.generate(BOB, "Bob")
    changing.revoke(bob.fingerprint)
    for action in (lambda: keyring.identity(BOB), lambda: alice.seal(TEXT, [keyring.export(BOB)])):
        with pytest.raises(OpenPGPError) as error:
            action()
        assert error.value.reason == "revoked"


BOMB_TEST = """
import resource, sys
from pathlib import Path
from stubmail.address import Address
from stubmail.keyring import Keyring
from stubmail.openpgp import OpenPGPError
from stubmail.openpgp.agent import AgentIdentity
from stubmail.openpgp.gnupg import GnuPG

home, engine, path = sys.argv[1:]
keyring, bomb = Keyring(Path(home)), Path(path).read_bytes()
identity = keyring.identity(Address.parse("bob@beta.example"))
if engine == "gpg":
    identity = AgentIdentity(identity.certificate, GnuPG(Path(home)))
for action in (lambda: identity.unseal(bomb, keyring.by_fingerprint, 1 << 20), lambda: identity.decrypt(bomb, 1 << 20)):
    try:
        action()
    except OpenPGPError as error:
        print(error.reason)
identity.close()
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) >> 10)
"""


def explode(home: GpgHome, engine: str, path: Path) -> tuple[list[str], int]:
    """Read a bomb both ways in a process of its own; return why it was refused, and the peak memory in MiB.

    The highest memory of a child counts from before it runs its program: ours, with a bomb in it, would spoil it.
    """
    command = [sys.executable, "-c", BOMB_TEST, str(home.path), engine, str(path)]
    *reasons, peak = subprocess.run(command, capture_output=True, check=True, text=True, timeout=40).stdout.split()
    return reasons, int(peak)


@pytest.mark.parametrize("engine", ["sequoia", "gpg"])
@pytest.mark.parametrize("how", ["-se", "-e"])
def test_a_decompression_bomb_fills_neither_memory_nor_time(
    home: GpgHome, engine: str, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb"
    options = f"--homedir {home.path} --batch --trust-model always -u {ALICE.key} -r {BOB.key} -o {path} {how}"
    subprocess.run(
        f"head -c 500M /dev/zero | gpg --compress-level 1 {options}", shell=True, check=True, capture_output=True
    )
    assert path.stat().st_size < 16 << 20
    reasons, peak = explode(home, engine, path)
    assert reasons == ["too-large", "too-large"]
    assert peak < 300


def deflated(content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    return b"\xc8\xff" + (len(packed) + 1).to_bytes(4, "big") + b"\x02" + packed


@pytest.mark.parametrize("engine", ["sequoia", "gpg"])
def test_a_bomb_in_a_bomb_fills_neither_memory_nor_time(home: GpgHome, engine: str, tmp_path: Path) -> None:
    literal = b"\xcb\xff" + (64 << 20).to_bytes(4, "big") + b"b\0\0\0\0\0" + bytes((64 << 20) - 6)
    content = deflated(deflated(deflated(literal)))
    options = ("--trust-model", "always", "--recipient", BOB.key, "-e", "-z0", "--no-literal")
    path = tmp_path / "bomb"
    path.write_bytes(home.run(*options, data=content).stdout)
    assert path.stat().st_size < 4096
    reasons, peak = explode(home, engine, path)
    assert reasons == ["malformed", "malformed"]
    assert peak < 300
