"""The five rules of protocol.md §7.4, and what of a listing is not even fetched."""

import secrets

import pytest

from services.http2mbox.contacts import Contacts
from services.http2mbox.listing import check_page, others_of
from services.http2mbox.state import OtherSender
from services.http2mbox.trust import Recipient, Untrusted, admit, verify
from stubmail.address import Address
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.errors import TemporaryError
from stubmail.openpgp import Certificate, OpenPGPError, Unsealed
from stubmail.store_answers import Listed, Listing, Other
from tests.support.fake_store import (
    ALICE,
    ALICE_KEY,
    BOB,
    BOB_KEY,
    STRANGER_KEY,
    WHEN,
    FakeKeyring,
    certificate,
    honest_message,
)

CAROL = Address("carol", "alpha.example")
CAROL_KEY = "CA" * 20
ID = bytes(range(16))
LISTED = Listed(ID, 1, ALICE_KEY, ALICE, 1000, 0)
RECIPIENT = Recipient(BOB, BOB_KEY)


def contacts_of(*certificates: Certificate) -> Contacts:
    return Contacts(FakeKeyring(*certificates).correspondents())


CONTACTS = contacts_of(certificate(ALICE, ALICE_KEY), certificate(CAROL, CAROL_KEY))


def text(message: bytes | None = None, *, sender: Address = ALICE, tags: list[bytes] | None = None) -> bytes:
    chosen = [tag(ID, BOB_KEY, BOB)] if tags is None else tags
    return Envelope(sender, WHEN, fill_up(chosen, secrets.token_bytes)).wrap(message or honest_message(1))


def verdict(unsealed: Unsealed, listed: Listed = LISTED, contacts: Contacts = CONTACTS) -> Untrusted:
    with pytest.raises(Untrusted) as caught:
        verify(unsealed, listed, RECIPIENT, contacts)
    return caught.value


def test_an_honest_message_is_believed() -> None:
    verified = verify(Unsealed(text(), ALICE_KEY), LISTED, RECIPIENT, CONTACTS)
    assert verified.sender == ALICE
    assert verified.message == honest_message(1)


def test_a_subaddress_of_a_correspondent_is_his() -> None:
    lists = Address("alice+lists", "alpha.example")
    message = b"From: <alice+lists@alpha.example>\r\n\r\n"
    assert verify(Unsealed(text(message, sender=lists), ALICE_KEY), LISTED, RECIPIENT, CONTACTS).sender == lists


def test_rule_2_the_signer_must_be_the_one_that_the_keyring_has_for_the_sender() -> None:
    found = verdict(Unsealed(text(), STRANGER_KEY))
    assert found.reason == "key-mismatch"
    assert (found.found, found.expected) == (STRANGER_KEY, ALICE_KEY)
    assert found.is_key_mismatch


def test_rule_2_a_correspondent_cannot_sign_as_another() -> None:
    found = verdict(Unsealed(text(), CAROL_KEY), Listed(ID, 1, CAROL_KEY, CAROL, 1000, 0))
    assert found.reason == "key-mismatch"


def test_rule_3_the_signer_must_be_the_one_that_the_store_named() -> None:
    both = contacts_of(certificate(ALICE, ALICE_KEY), certificate(ALICE, CAROL_KEY))
    found = verdict(Unsealed(text(), CAROL_KEY), contacts=both)
    assert found.reason == "signer-mismatch"
    assert found.is_key_mismatch


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [tag(ID, CAROL_KEY, BOB)],  # for another key
        [tag(ID, BOB_KEY, CAROL)],  # for another address
        [tag(bytes(16), BOB_KEY, BOB)],  # taken from another post: a replay
    ],
)
def test_rule_4_the_post_must_be_addressed_to_this_recipient_under_this_id(tags: list[bytes]) -> None:
    found = verdict(Unsealed(text(tags=tags), ALICE_KEY))
    assert found.reason == "recipient"
    assert not found.is_key_mismatch


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: nobody\r\n",
        b"From: carol@alpha.example\r\n",
        b"From: alice@alpha.example, carol@alpha.example\r\n",
        b"From: carol@alpha.example\r\nFrom: alice@alpha.example\r\n",
        b"From: alice@alpha.example\r\nFROM : carol@alpha.example\r\n",
        b"From: alice@alpha.example\nFrom: carol@alpha.example\n",
        b"Subject: x\nFrom: carol@alpha.example\r\nFrom: alice@alpha.example\r\n",
        b"Subject: x\rFrom: carol@alpha.example\r\nFrom: alice@alpha.example\r\n",
        b"From: alice@alpha.example\r\n,carol@alpha.example\r\nFrom: carol@alpha.example\r\n",
        b"From: alice@alpha.example\r\n ,carol@alpha.example\r\n",
        b"From: Friends: alice@alpha.example;\r\n",
        b"From: \xff@alpha.example\r\n",
        b"From:\r\n",
    ],
)
def test_rule_5_the_from_header_must_hold_exactly_the_signer(header: bytes) -> None:
    assert verdict(Unsealed(text(header + b"\r\nbody"), ALICE_KEY)).reason == "from"


@pytest.mark.parametrize(
    "header",
    [
        b"From: alice@alpha.example\r\n",
        b"from: ALICE@Alpha.Example\r\n",
        b"Subject: x\r\nFrom:\r\n\tAlice\r\n\t<alice@alpha.example>\r\n",
        b"From: \xff\xfe <alice@alpha.example>\r\n",
        b"From: alice@alpha.example\n",
    ],
)
def test_rule_5_however_it_is_written(header: bytes) -> None:
    message = header + b"\r\nFrom: in the body\r\n"
    assert verify(Unsealed(text(message), ALICE_KEY), LISTED, RECIPIENT, CONTACTS).message == message


def test_a_text_without_an_envelope_is_held() -> None:
    assert verdict(Unsealed(honest_message(1), ALICE_KEY)).reason == "envelope"


def test_what_openpgp_refuses_keeps_its_reason() -> None:
    assert Untrusted.unopened(OpenPGPError("unsigned", "no signature"), LISTED).reason == "unsigned"
    assert Untrusted.unopened(OpenPGPError("unknown-signer", "who?"), LISTED).is_key_mismatch


def test_a_post_is_fetched_only_for_the_key_that_the_keyring_has_for_its_address() -> None:
    admit(LISTED, CONTACTS, WHEN, 1000)
    with pytest.raises(Untrusted) as caught:
        admit(Listed(ID, 1, CAROL_KEY, ALICE, 1000, 0), CONTACTS, WHEN, 1000)
    assert (caught.value.reason, caught.value.found, caught.value.expected) == ("key-mismatch", CAROL_KEY, ALICE_KEY)


@pytest.mark.parametrize("problem", ["revoked", "expired"])
def test_nothing_is_fetched_for_a_key_that_is_not_valid_any_more(problem: str) -> None:
    with pytest.raises(Untrusted) as caught:
        admit(LISTED, contacts_of(certificate(ALICE, ALICE_KEY, problem.encode())), WHEN, 1000)
    assert caught.value.reason == problem


def test_a_post_that_is_too_large_is_not_fetched() -> None:
    with pytest.raises(Untrusted) as caught:
        admit(LISTED, CONTACTS, WHEN, 999)
    assert caught.value.reason == "too-large"


def test_senders_are_grouped_by_domain_and_their_digest_changes_with_any_certificate() -> None:
    gamma = Address("dave", "gamma.example")
    one = contacts_of(certificate(ALICE, ALICE_KEY), certificate(gamma, "DA" * 20))
    assert one.domains["alpha.example"].fingerprints == {ALICE_KEY}
    assert one.domains["gamma.example"].fingerprints == {"DA" * 20}
    renewed = contacts_of(certificate(ALICE, ALICE_KEY, b"renewed"), certificate(gamma, "DA" * 20))
    assert renewed.domains["alpha.example"].digest != one.domains["alpha.example"].digest
    assert renewed.domains["gamma.example"].digest == one.domains["gamma.example"].digest
    assert CONTACTS.domains["alpha.example"].digest != one.domains["alpha.example"].digest


def test_strangers_and_wrong_keys_are_told_apart() -> None:
    dave, eve = Address("dave", "gamma.example"), Address("eve", "other.example")
    contacts = contacts_of(certificate(ALICE, ALICE_KEY), certificate(dave, "DA" * 20))
    others = [
        Other(STRANGER_KEY, ALICE, 2),  # not the key that we know
        Other("E0" * 20, Address("emil", "alpha.example"), 3),
        Other("DA" * 20, dave, 4),  # known; served by the same store
        Other("DD" * 20, dave, 5),  # gamma.example's own store has to say so
        Other("EE" * 20, eve, 6),
    ]
    assert others_of(others, contacts, "alpha.example") == [
        OtherSender(STRANGER_KEY, "alice@alpha.example", 2, ALICE_KEY),
        OtherSender("E0" * 20, "emil@alpha.example", 3, ""),
        OtherSender("EE" * 20, "eve@other.example", 6, ""),
    ]


def page(*posts: Listed, more: bool = False, serial: int = 9, others: tuple[Other, ...] = ()) -> Listing:
    return Listing(posts, more, serial, others)


def post(serial: int, number: int | None = None, sender: str = ALICE_KEY, size: int = 10) -> Listed:
    return Listed((number or serial).to_bytes(16, "big"), serial, sender, ALICE, size, 0)


def test_an_honest_page_passes() -> None:
    check_page(page(post(3), post(7), more=True), [ALICE_KEY], 2)
    check_page(page(), [ALICE_KEY], 2)


@pytest.mark.parametrize(
    "wrong",
    [
        page(post(1, sender=STRANGER_KEY)),
        page(post(2), post(2, 3)),
        page(post(5), post(4)),
        page(post(0, 1)),
        page(post(2**63)),
        page(post(1, size=-1)),
        page(post(1, 8), post(2, 8)),
        page(more=True),
        page(serial=-1),
        page(serial=2**63),
        page(others=(Other("5E5E5E5E", ALICE, 1),)),
        page(others=(Other(STRANGER_KEY, ALICE, -1),)),
    ],
)
def test_a_page_that_cannot_be_is_refused(wrong: Listing) -> None:
    with pytest.raises(TemporaryError):
        check_page(wrong, [ALICE_KEY], 0)


def test_a_page_must_go_on_behind_the_one_before() -> None:
    with pytest.raises(TemporaryError):
        check_page(page(post(5)), [ALICE_KEY], 5)
