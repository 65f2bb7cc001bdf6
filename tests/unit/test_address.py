"""Addresses and domain names: one canonical form, nothing that breaks lines, limits that hold in every form."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.address import MAX_ADDRESS, MAX_LOCAL, MAX_NAME, Address, AddressError, parse_domain

LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DOMAINS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
ATOMS = st.text("abcXYZ09!#$%&'*+/=?^_`{|}~-äöÜß漢", min_size=1, max_size=8)
LOCALS = st.lists(ATOMS, min_size=1, max_size=3).map(".".join).filter(lambda text: len(text.encode()) <= MAX_LOCAL)


@given(LOCALS, DOMAINS)
def test_parse_and_format(local: str, domain: str) -> None:
    address = Address.parse(f"{local}@{domain}")
    assert (address.local, address.domain) == (local, domain)
    assert str(address) == f"{local}@{domain}"
    assert Address.parse(str(address)) == address


@given(st.text(st.characters()))
@example("\ud800@a.example")
@example("a\x85b@a.example")
@example("a@" + "\u00ad" * 300 + "a")
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    for candidate in (text, f"{text}@a.example", f"a@{text}"):
        try:
            address = Address.parse(candidate)
        except AddressError:
            continue
        assert 0 < len(address.local.encode()) <= MAX_LOCAL
        assert len(str(address).encode()) <= MAX_ADDRESS
        assert len(str(address).splitlines()) == 1
        assert address.domain.isascii()
        assert Address.parse(str(address)) == address


@given(st.text(st.characters()))
@example("faß.example")
@example("⒈.example")
@example("a。b")
def test_any_text_is_a_domain_name_or_an_address_error(text: str) -> None:
    try:
        name = parse_domain(text)
    except AddressError:
        return
    assert name.isascii()
    assert name == name.lower()
    assert 0 < len(name) <= MAX_NAME
    assert parse_domain(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Alpha.Example", "alpha.example"),
        ("alpha.example.", "alpha.example"),
        ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
        ("ΟΔΟΣ.example", "xn--pxavbq.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("_post._tcp.alpha.example", "_post._tcp.alpha.example"),
        ("localhost", "localhost"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_domain_names_have_one_form(text: str, name: str) -> None:
    assert parse_domain(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.example..",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        ".".join(["a" * 49] * 6),
        "ü" * 10_000,
        "straße.example",
        "STRAẞE.example",
        "οδος.example",
        "na\u200cme.example",
        "na\u200dme.example",
        "a b",
        "a/b",
        "a:25",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "℀.example",
        "a\n",
        "a\0",
        "\udc80.example",
    ],
)
def test_no_domain_names(text: str) -> None:
    with pytest.raises(AddressError):
        parse_domain(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a@",
        "@a",
        "a",
        "a b@a.example",
        ".a@a.example",
        "a.@a.example",
        "a..b@a.example",
        '"a b"@a.example',
        "<a@a.example>",
        "a@b@a.example",
        "a@[192.0.2.1]",
        "a\r\nb@a.example",
        "a\0@a.example",
        "a\x7f@a.example",
        "a\x85@a.example",
        "a\u2028@a.example",
        "\ud800@a.example",
        "a(comment)@a.example",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


def test_limits_are_octets_of_the_canonical_form() -> None:
    assert Address.parse("a" * 64 + "@a.example").local == "a" * 64
    for local in ("a" * 65, "ü" * 33):
        with pytest.raises(AddressError, match="too long"):
            Address.parse(local + "@a.example")
    domain = ".".join(["a" * 61] * 4)  # 247 octets
    assert len(str(Address.parse("123456@" + domain))) == MAX_ADDRESS
    with pytest.raises(AddressError, match="too long"):
        Address.parse("1234567@" + domain)
    with pytest.raises(AddressError, match="too long"):  # 117 characters here, 272 octets as A-labels
        Address.parse("a" * 60 + "@" + ".".join(["ü" + "abcdef" * 8] * 4))


def test_the_key_is_what_is_compared() -> None:
    assert Address.parse("Bob.Smith@BETA.example").key == "bob.smith@beta.example"
    assert Address.parse("Jürgen@Münch.example").key == "jürgen@xn--mnch-0ra.example"
    assert Address.parse("Bob@beta.example").key == Address.parse("bob@beta.example.").key


@given(LOCALS, DOMAINS)
def test_the_key_does_not_depend_on_case(local: str, domain: str) -> None:
    address = Address.parse(f"{local}@{domain}")
    assert Address(address.key.rpartition("@")[0], address.domain).key == address.key
    assert Address.parse(f"{local}@{domain.upper()}").key == address.key


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("bob+lists@beta.example", "bob@beta.example"),
        ("bob+a+b@beta.example", "bob@beta.example"),
        ("bob@beta.example", "bob@beta.example"),
        ("+lists@beta.example", "+lists@beta.example"),
    ],
)
def test_the_base_is_without_the_subaddress(text: str, base: str) -> None:
    assert str(Address.parse(text).base) == base
