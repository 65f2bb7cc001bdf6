"""Records of a domain: what parses, what is refused, in which order they are tried, what they add up to."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.dns.offer import Found, assess, read_post, read_srv
from stubmail.dns.records import (
    PostRecord,
    RecordError,
    SrvRecord,
    Store,
    StubDomain,
    Target,
    in_order,
    is_post,
    parse_post,
    parse_srv,
)
from stubmail.errors import TemporaryError

NUMBERS = st.integers(0, 65535)
PORTS = st.integers(1, 65535)
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){1,3}", fullmatch=True)
SEGMENTS = st.from_regex(r"[A-Za-z0-9_~.-]{1,20}", fullmatch=True).filter(lambda text: text not in (".", ".."))
PREFIXES = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
POSTS = st.builds(PostRecord, NUMBERS, NUMBERS, PORTS, HOSTS, PREFIXES)


def post(text: str) -> PostRecord:
    return parse_post([text.encode()])


def test_the_record_of_the_2006_readme() -> None:
    record = post("10 5 80 www.example.com. cgi-bin/stubmail/post_manager")
    assert record == PostRecord(10, 5, 80, "www.example.com", "cgi-bin/stubmail/post_manager")
    assert record.target.url == "http://www.example.com:80/cgi-bin/stubmail/post_manager"


def test_port_443_means_https() -> None:
    assert post("0 0 443 store.example.com p").target.url == "https://store.example.com/p"


def test_strings_of_one_record_are_joined() -> None:
    assert parse_post([b"10 5 80 www.exam", b"ple.com. p", b"m"]).target == Store("www.example.com", 80, "pm")


def test_host_is_canonical_and_spaces_may_repeat() -> None:
    assert post(" 10  5 80   WWW.Example.COM p ").host == "www.example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10 5 80 www.example.com",  # no prefix
        "10 5 80 www.example.com a b",
        "10 5 0 www.example.com p",
        "10 5 65536 www.example.com p",
        "10 5 -1 www.example.com p",
        "10 5 +8 www.example.com p",
        "10 5 8_0 www.example.com p",
        "10 5 \u0663 www.example.com p",
        "65536 5 80 www.example.com p",
        "10 5 80 wwẃ.example.com p",
        "10 5 80 203.0.113.1 p",
        "10 5 80 [::1] p",
        "10 5 80 user@www.example.com p",
        "10 5 80 www.example.com:90 p",
        "10 5 80 www..example.com p",
        "10 5 80 -www.example.com p",
        "10 5 80 www.example.com /p",
        "10 5 80 www.example.com //evil.example/p",
        "10 5 80 www.example.com http://evil.example/p",
        "10 5 80 www.example.com a/../b",
        "10 5 80 www.example.com ..",
        "10 5 80 www.example.com a/./b",
        "10 5 80 www.example.com a//b",
        "10 5 80 www.example.com p/",
        "10 5 80 www.example.com p?x=1",
        "10 5 80 www.example.com p#x",
        "10 5 80 www.example.com %2e%2e/p",
        "10 5 80 www.example.com a\\b",
        "10 5 80 www.example.com p\n",
        "10 5 80 www.example.com p\x00q",
        "10\t5\t80\twww.example.com\tp",
        "10 5 80 www.example.com " + "p" * 256,
        "10 5 80 www.example.com p" + " " * 600,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(RecordError):
        post(text)


@given(POSTS)
def test_a_formatted_record_parses_to_itself(record: PostRecord) -> None:
    assert post(record.format().strip('"')) == record


@given(POSTS, st.data())
def test_any_split_into_strings_is_the_same_record(record: PostRecord, data: st.DataObject) -> None:
    wire = record.format().strip('"').encode()
    cut = data.draw(st.integers(0, len(wire)))
    assert parse_post([wire[:cut], wire[cut:]]) == record


@given(st.lists(st.binary(max_size=255), max_size=4) | POSTS.map(lambda record: [record.format().encode()]))
def test_any_octets_parse_or_are_refused_and_what_parses_is_a_harmless_url(strings: list[bytes]) -> None:
    try:
        record = parse_post(strings)
    except RecordError:
        return
    assert is_post(strings)
    assert 0 < record.target.port < 65536 or not record.host
    path = record.target.url.partition("://")[2].partition("/")[2]
    assert path == record.prefix
    assert not set(path) & set("?#%\\@: \r\n\t") and ".." not in path.split("/")


@given(st.integers(-1, 70000), st.integers(-1, 70000), st.integers(-1, 70000), st.text(max_size=40) | HOSTS)
def test_any_srv_fields_parse_or_are_refused(priority: int, weight: int, port: int, host: str) -> None:
    try:
        record = parse_srv(priority, weight, port, host)
    except RecordError:
        return
    assert parse_srv(priority, weight, port, record.host or ".") == record


def test_srv_target_dot_means_not_offered() -> None:
    assert parse_srv(0, 0, 0, ".") == SrvRecord(0, 0, 0, "")
    assert SrvRecord(0, 0, 0, "").format() == "0 0 0 ."
    with pytest.raises(RecordError):
        parse_srv(0, 0, 0, "www.example.com.")


def test_lower_priority_first_then_in_proportion_to_weight() -> None:
    rng = random.Random(2782)
    records = [SrvRecord(20, 0, 1, "last"), SrvRecord(10, 0, 1, "none"), SrvRecord(10, 30, 1, "three")]
    records.append(SrvRecord(10, 10, 1, "one"))
    orders = [[record.host for record in in_order(records, rng)] for _ in range(4000)]
    assert all(order[3] == "last" and sorted(order[:3]) == ["none", "one", "three"] for order in orders)
    first = Counter(order[0] for order in orders)
    assert 0.70 < first["three"] / 4000 < 0.80
    assert 0 < first["none"] / 4000 < 0.06  # weight 0: hardly ever, but not never


def test_all_weights_zero_keeps_every_record() -> None:
    records = [SrvRecord(1, 0, 1, name) for name in "abc"]
    assert sorted(record.host for record in in_order(records, random.Random(1))) == ["a", "b", "c"]


CHECKS = read_srv([(10, 5, 2225, "post.a.example.")])
KEYS = read_srv([(10, 5, 11371, "keys.a.example.")])
STORES = read_post([[b"10 5 80 post.a.example. p"]])
CLOSED = read_srv([(0, 0, 0, ".")])
NO_SRV: Found[SrvRecord] = Found()
NO_POST: Found[PostRecord] = Found()
RNG = random.Random(0)


def test_all_three_make_an_offer() -> None:
    assert assess("a.example", CHECKS, KEYS, STORES, RNG) == StubDomain(
        "a.example",
        (Target("post.a.example", 2225),),
        (Target("keys.a.example", 11371),),
        (Store("post.a.example", 80, "p"),),
    )


def test_none_of_the_three_is_no_offer() -> None:
    assert assess("a.example", NO_SRV, NO_SRV, NO_POST, RNG) is None


def test_another_protocols_wildcard_txt_is_no_offer() -> None:
    assert assess("a.example", NO_SRV, NO_SRV, read_post([[b"v=spf1 -all"]]), RNG) is None


def test_the_check_alone_may_be_declined() -> None:
    offer = assess("a.example", CLOSED, KEYS, STORES, RNG)
    assert offer is not None and offer.checks == ()


@pytest.mark.parametrize(
    ("checks", "keys", "stores", "named"),
    [
        (NO_SRV, KEYS, STORES, "_stub._udp.a.example is missing"),
        (CHECKS, NO_SRV, STORES, "_pks._tcp.a.example is missing"),
        (CHECKS, KEYS, NO_POST, "_post._tcp.a.example is missing"),
        (CHECKS, KEYS, read_post([[b"v=spf1 -all"]]), "_post._tcp.a.example is missing"),
        (CHECKS, CLOSED, STORES, "_pks._tcp.a.example is not offered"),
        (CHECKS, KEYS, read_post([[b"0 0 0 . p"]]), "_post._tcp.a.example is not offered"),
        (CLOSED, CLOSED, read_post([[b"0 0 0 . p"]]), "_pks._tcp.a.example is not offered"),
        (CLOSED, NO_SRV, NO_POST, "missing"),
        (NO_SRV, NO_SRV, read_post([[b"10 5 80"]]), "five fields"),
        (read_srv([(0, 0, 0, "x.")]), KEYS, STORES, "not a port"),
        (CHECKS, read_srv([(1, 1, 1, "k.example.")] * 33), STORES, "more than 32"),
        (CHECKS, KEYS, read_post([[b"1 1 1 k.example p"]] * 33), "more than 32"),
    ],
)
def test_anything_between_is_a_failure_that_names_the_record(
    checks: Found[SrvRecord], keys: Found[SrvRecord], stores: Found[PostRecord], named: str
) -> None:
    with pytest.raises(TemporaryError, match=named) as caught:
        assess("a.example", checks, keys, stores, RNG)
    assert caught.value.code == "4.4.4"


def test_a_malformed_record_beside_a_good_one_is_passed_over() -> None:
    assert read_srv([(1, 1, 0, "bad.example."), (1, 1, 1, "good.example.")]).records == (
        SrvRecord(1, 1, 1, "good.example"),
    )
    assert len(read_post([[b"1 1 80 ..bad p"], [b"1 1 80 good.example p"], [b"google-site=1"]]).records) == 1
