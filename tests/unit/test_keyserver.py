"""The key server over WSGI, with certificates made by gpg: what it serves, whom it lets add what, what it keeps out."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from pysequoia.packet import Packet, PacketPile, Tag

from services.keyserver.app import create_app
from services.keyserver.directory import Directory
from stubmail.openpgp import Certificate
from stubmail.openpgp.packets import armor
from tests.support.gpg import GpgHome, gpg_home, need

FRIENDS = (ip_network("127.0.0.0/8"),)
STRANGER = {"REMOTE_ADDR": "198.51.100.7"}


@pytest.fixture(scope="module")
def gpg() -> Iterator[GpgHome]:
    need("gpg", "gnupg")
    with gpg_home() as home:
        yield home


@pytest.fixture(scope="module")
def alice(gpg: GpgHome) -> str:
    return gpg.generate("Alice <alice@alpha.example>")


@pytest.fixture(scope="module")
def bob(gpg: GpgHome) -> str:
    return gpg.generate("Bob <bob@alpha.example>")


@pytest.fixture(scope="module")
def carol(gpg: GpgHome) -> str:
    return gpg.generate("Carol <carol@elsewhere.example>")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def client(keys: Path) -> FlaskClient:
    return create_app(Directory(keys, "alpha.example"), FRIENDS).test_client()


def get(client: FlaskClient, search: str, op: str = "get") -> tuple[int, str, bytes]:
    with client.get("/pks/lookup", query_string={"op": op, "options": "mr", "search": search, "exact": "on"}) as answer:
        return answer.status_code, answer.mimetype, answer.data


def add(client: FlaskClient, certificate: bytes, environ: dict[str, str] | None = None, **headers: str) -> int:
    form = {"keytext": armor(certificate, "PGP PUBLIC KEY BLOCK").decode(), "options": "nm"}
    with client.post("/pks/add", data=form, environ_base=environ or {}, headers=headers) as answer:
        return answer.status_code


def served(client: FlaskClient, search: str) -> Certificate:
    status, media_type, body = get(client, search)
    assert (status, media_type) == (200, "application/pgp-keys")
    return Certificate.parse(body)


def packets(data: bytes, tag: Tag) -> list[Packet]:
    return [packet for packet in PacketPile.from_bytes(data) if packet.tag == tag]


def test_a_certificate_is_found_by_address_fingerprint_and_key_id(
    client: FlaskClient, keys: Path, gpg: GpgHome, alice: str
) -> None:
    (keys / "alice.pgp").write_bytes(gpg.export(alice))
    subkey = Certificate.parse(gpg.export(alice)).key_fingerprints[1]
    for search in ("alice@alpha.example", "ALICE@alpha.example", f"0x{alice}", f"0x{alice[-16:]}", f"0x{subkey}"):
        assert served(client, search).fingerprint == alice


def test_the_answer_is_armour_with_its_length(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str) -> None:
    (keys / "alice.pgp").write_bytes(gpg.export(alice))
    with client.get(f"/pks/lookup?op=get&options=mr&search=0x{alice}") as answer:
        assert answer.data.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
        assert answer.data.endswith(b"-----END PGP PUBLIC KEY BLOCK-----\n")
        assert answer.content_length == len(answer.data)


def test_nothing_found_is_404_with_a_word(client: FlaskClient) -> None:
    for op in ("get", "index"):
        status, media_type, body = get(client, "nobody@alpha.example", op)
        assert (status, media_type) == (404, "text/plain")
        assert body and not body.startswith(b"<")


def test_a_list_of_what_a_word_means(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str, bob: str) -> None:
    (keys / "both.asc").write_bytes(gpg.export(alice))
    (keys / "bob.gpg").write_bytes(gpg.export(bob))
    with client.get("/pks/lookup?op=index&options=mr&search=ALPHA.example") as answer:
        lines = answer.text.splitlines()
    assert lines[0] == "info:1:2"
    assert {line.split(":")[1] for line in lines if line.startswith("pub:")} == {alice, bob}
    assert {line for line in lines if line.startswith("uid:")} == {
        "uid:Alice <alice@alpha.example>:::",
        "uid:Bob <bob@alpha.example>:::",
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pks/lookup?op=get&search=0x01234567", 400),
        ("/pks/lookup?op=get", 400),
        ("/pks/lookup?op=x&search=y", 501),
        ("/pks/add", 405),
        ("/", 404),
        ("/static/x", 404),
    ],
)
def test_refusals(client: FlaskClient, path: str, status: int) -> None:
    with client.get(path) as answer:
        assert (answer.status_code, answer.mimetype) == (status, "text/plain")


def test_a_first_certificate_from_a_friend(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str) -> None:
    assert add(client, gpg.export(alice)) == 200
    assert served(client, "alice@alpha.example").fingerprint == alice
    assert [path.name for path in keys.iterdir()] == [f"{alice}.asc"]
    assert add(client, gpg.export(alice)) == 200  # once more changes nothing


def test_a_first_certificate_from_anybody_else(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str) -> None:
    assert add(client, gpg.export(alice), STRANGER) == 403
    for header in ("X-Forwarded-For", "Forwarded", "Via", "Origin"):  # a local proxy or browser acts for strangers
        assert add(client, gpg.export(alice), **{header: "127.0.0.1"}) == 403
    assert not list(keys.iterdir())


def test_an_address_that_has_a_certificate_gets_no_second_one(client: FlaskClient, gpg: GpgHome, alice: str) -> None:
    assert add(client, gpg.export(alice)) == 200
    with gpg_home() as other:
        impostor = other.generate("Alice <alice@alpha.example>")
        assert add(client, other.export(impostor)) == 403
    assert served(client, "alice@alpha.example").fingerprint == alice


def test_only_user_ids_of_the_domain_are_kept(client: FlaskClient, carol: str) -> None:
    with gpg_home() as home:
        dave = home.generate("Dave <dave@alpha.example>")
        home.run("--quick-add-uid", dave, "Dave <dave@elsewhere.example>")
        home.run("--quick-add-uid", dave, "Dave, without an address")
        home.run("--quick-add-uid", dave, "dave@alpha.example <dave@elsewhere.example>")
        assert add(client, home.export(dave)) == 200
    assert served(client, "dave@alpha.example").user_ids == ("Dave <dave@alpha.example>",)
    assert get(client, "dave@elsewhere.example")[0] == 404


def test_a_certificate_of_another_domain(client: FlaskClient, keys: Path, gpg: GpgHome, carol: str) -> None:
    assert add(client, gpg.export(carol)) == 403
    (keys / "carol.pgp").write_bytes(gpg.export(carol))
    assert get(client, f"0x{carol}")[0] == 404


def test_anybody_may_bring_what_the_owner_has_signed(client: FlaskClient) -> None:
    with gpg_home() as home:
        erin = home.generate("Erin <erin@alpha.example>", expire="10d")
        assert add(client, home.export(erin)) == 200
        first = served(client, "erin@alpha.example")
        home.run("--quick-set-expire", erin, "20d")
        assert add(client, home.export(erin), STRANGER) == 200
        longer = served(client, "erin@alpha.example")
        assert first.expires and longer.expires and longer.expires - first.expires > timedelta(days=9)
        home.revoke(erin)
        assert add(client, home.export(erin), STRANGER) == 200
    assert served(client, f"0x{erin}").problem(datetime.now(UTC)) == "revoked"
    status, _, body = get(client, f"0x{erin}", "index")
    assert status == 200 and body.splitlines()[1].endswith(b":r")


def test_an_owner_cannot_take_another_address(client: FlaskClient, gpg: GpgHome, alice: str) -> None:
    assert add(client, gpg.export(alice)) == 200
    with gpg_home() as home:
        frank = home.generate("Frank <frank@alpha.example>")
        assert add(client, home.export(frank)) == 200
        home.run("--quick-add-uid", frank, "Free <free@alpha.example>")
        home.run("--quick-add-uid", frank, "Not Alice <alice@alpha.example>")
        assert add(client, home.export(frank), STRANGER) == 200
        assert served(client, "frank@alpha.example").addresses == {"frank@alpha.example"}
        assert add(client, home.export(frank)) == 200
    assert served(client, "frank@alpha.example").addresses == {"frank@alpha.example", "free@alpha.example"}
    assert served(client, "alice@alpha.example").fingerprint == alice


def forged_update(certificate: bytes, foreign: bytes) -> bytes:
    """The certificate with what only a forger would add: a user ID, a subkey and signatures that its key never made."""
    parts = list(PacketPile.from_bytes(certificate))
    certification = next(packet for packet in parts if packet.tag == Tag.Signature)
    binding = [packet for packet in parts if packet.tag == Tag.Signature][-1]
    user_id = b"Forged <alice@alpha.example> x"
    (subkey,) = packets(foreign, Tag.PublicSubkey)[:1]
    junk = b"".join(bytes(certification)[:-number] + bytes(number) for number in range(1, 9))
    return b"".join(
        [
            *map(bytes, parts[:3]),
            junk,
            bytes([0xB4, len(user_id)]) + user_id,
            bytes(certification),
            bytes(subkey),
            bytes(binding),
        ]
    )


def test_nobody_can_flood_a_certificate(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str, bob: str) -> None:
    assert add(client, gpg.export(alice)) == 200
    before = served(client, f"0x{alice}")
    add(client, forged_update(gpg.export(alice), gpg.export(bob)), STRANGER)
    assert served(client, f"0x{alice}").data == before.data


def test_third_party_signatures_are_dropped(client: FlaskClient, gpg: GpgHome, alice: str, bob: str) -> None:
    assert add(client, gpg.export(alice)) == 200
    gpg.run("--default-key", bob, "--quick-sign-key", alice)
    signed = gpg.export(alice)
    assert bob in {(packet.issuer_fingerprint or "").upper() for packet in packets(signed, Tag.Signature)}
    assert add(client, signed, STRANGER) == 200
    issuers = {packet.issuer_fingerprint for packet in packets(served(client, f"0x{alice}").data, Tag.Signature)}
    assert issuers == {alice.lower()}


@pytest.mark.parametrize(
    ("keytext", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", 400),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + b"mDMEZwAA" * 12_500, 413),
        (b"x" * 200_000, 413),
    ],
)
def test_what_is_no_certificate(client: FlaskClient, keytext: bytes, status: int) -> None:
    with client.post("/pks/add", data={"keytext": keytext.decode()}) as answer:
        assert answer.status_code == status
        assert not answer.data.startswith(b"<")


def test_a_secret_key_is_refused(client: FlaskClient, keys: Path, gpg: GpgHome, alice: str) -> None:
    assert add(client, gpg.run("--export-secret-keys", alice).stdout) == 400
    assert not list(keys.iterdir())


def test_files_may_come_change_and_go(keys: Path, gpg: GpgHome, alice: str, bob: str) -> None:
    now = 0.0
    directory = Directory(keys, "alpha.example", lambda: now)

    def known() -> set[str]:
        return {certificate.fingerprint for certificate in directory.current()}

    assert known() == set()
    file = keys / "someone.asc"
    file.write_bytes(gpg.export(alice))
    assert known() == {alice}
    file.write_bytes(gpg.export(bob))  # in place: the directory itself does not change
    now += 2.0
    assert known() == {bob}
    file.write_bytes(b"garbage")
    (keys / "notes.txt").write_text("not a certificate")
    (keys / ".tmp-x.asc").write_bytes(gpg.export(alice))
    (keys / "loop.asc").symlink_to("loop.asc")
    (keys / "directory.asc").mkdir()
    now += 2.0
    assert known() == set()
    (keys / "copy.asc").write_bytes(gpg.export(alice))
    (keys / "copy2.asc").write_bytes(gpg.export(alice))
    assert known() == {alice}
    (keys / "copy.asc").unlink()
    (keys / "copy2.asc").unlink()
    assert known() == set()


def test_an_update_goes_to_the_file_that_an_administrator_chose(client: FlaskClient, keys: Path) -> None:
    with gpg_home() as home:
        grace = home.generate("Grace <grace@alpha.example>", expire="10d")
        (keys / "grace.pgp").write_bytes(home.export(grace))
        assert get(client, "grace@alpha.example")[0] == 200
        home.run("--quick-set-expire", grace, "20d")
        assert add(client, home.export(grace), STRANGER) == 200
    assert [path.name for path in keys.iterdir()] == ["grace.pgp"]
    expires = Certificate.parse((keys / "grace.pgp").read_bytes()).expires
    assert expires and expires - datetime.now(UTC) > timedelta(days=15)


def test_the_usable_certificate_of_an_address_is_served_before_the_revoked_one(client: FlaskClient, keys: Path) -> None:
    with gpg_home() as home:
        old = home.generate("Heidi <heidi@alpha.example>")
        home.revoke(old)
        (keys / "old.asc").write_bytes(home.export(old))
        assert served(client, "heidi@alpha.example").fingerprint == old
        with gpg_home() as second:
            new = second.generate("Heidi <heidi@alpha.example>")
            (keys / "new.asc").write_bytes(second.export(new))
        assert served(client, "heidi@alpha.example").fingerprint == new


def test_a_disk_that_takes_nothing_is_a_temporary_failure(
    client: FlaskClient, keys: Path, gpg: GpgHome, alice: str
) -> None:
    get(client, "nobody@alpha.example")
    keys.rmdir()
    assert add(client, gpg.export(alice)) == 503
    assert get(client, "alice@alpha.example")[0] == 503


def test_read_only(keys: Path, gpg: GpgHome, alice: str) -> None:
    client = create_app(Directory(keys, "alpha.example"), FRIENDS, read_only=True).test_client()
    assert add(client, gpg.export(alice)) == 403


def test_two_who_bring_the_same_address_at_once(keys: Path, gpg: GpgHome, alice: str) -> None:
    app = create_app(Directory(keys, "alpha.example"), FRIENDS)
    with gpg_home() as other:
        other.generate("Alice <alice@alpha.example>")
        offers = [gpg.export(alice), other.export("alice@alpha.example")]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda offer=offer: statuses.append(add(app.test_client(), offer))) for offer in offers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 403]


def test_counters(client: FlaskClient, gpg: GpgHome, alice: str) -> None:
    add(client, gpg.export(alice))
    get(client, "alice@alpha.example")
    get(client, "nobody@alpha.example", "index")
    get(client, "0x01234567")
    with client.get("/metrics") as answer:
        lines = answer.text.splitlines()
    assert "keyserver_certificates 1" in lines
    for result in ("added", "get-found", "index-not-found", "refused-400"):
        assert f'keyserver_requests_total{{result="{result}"}} 1' in lines
    with client.get("/metrics", environ_base=STRANGER) as answer:
        assert answer.status_code == 404
