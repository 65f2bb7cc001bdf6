"""Policies: which rule counts for whom, and mistakes that are named by their line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.policies import Policies, load_policies, parse_policies
from stubmail.routing import Policy
from stubmail.settings import ConfigError

FILE = Path("/etc/stub/policies")
TEXT = """\
# exceptions
beta.example            require
.beta.example           never
.lists.beta.example     prefer
Bob@beta.example        never
bob+urgent@BETA.example prefer

bücher.example          require
jörg@bücher.example     never
"""


def parse(text: str = TEXT, default: Policy = Policy.PREFER) -> Policies:
    return parse_policies(text, default, FILE)


@pytest.mark.parametrize(
    ("recipient", "policy"),
    [
        ("carol@beta.example", Policy.REQUIRE),
        ("bob@beta.example", Policy.NEVER),
        ("BOB@Beta.Example", Policy.NEVER),
        ("bob+lists@beta.example", Policy.NEVER),
        ("bob+urgent@beta.example", Policy.PREFER),
        ("Bob+URGENT@beta.example", Policy.PREFER),
        ("x@a.beta.example", Policy.NEVER),
        ("x@a.b.beta.example", Policy.NEVER),
        ("x@lists.beta.example", Policy.NEVER),
        ("x@a.lists.beta.example", Policy.PREFER),
        ("x@alphabeta.example", None),
        ("x@example", None),
        ("x@gamma.example", None),
        ("anna@bücher.example", Policy.REQUIRE),
        ("anna@xn--bcher-kva.example", Policy.REQUIRE),
        ("JÖRG@BÜCHER.example", Policy.NEVER),
    ],
)
@pytest.mark.parametrize("default", Policy)
def test_the_most_specific_rule_counts(recipient: str, policy: Policy | None, default: Policy) -> None:
    assert parse(default=default).of(Address.parse(recipient)) is (policy or default)


def test_the_order_of_the_lines_makes_no_difference() -> None:
    turned = parse("\n".join(reversed(TEXT.splitlines())))
    assert turned.of(Address.parse("bob+urgent@beta.example")) is Policy.PREFER
    assert turned.of(Address.parse("x@a.lists.beta.example")) is Policy.PREFER


def test_it_says_which_rule_counts() -> None:
    assert parse().explain(Address.parse("bob+x@beta.example")) == f"never, by Bob@beta.example in line 5 of {FILE}"
    assert parse().explain(Address.parse("x@gamma.example")) == "prefer, which is the default"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("beta.example", "a pattern and one of require, prefer, never"),
        ("beta.example require now", "a pattern and one of"),
        ("beta.example maybe", "'maybe' must be one of require, prefer, never"),
        ("beta.example REQUIRE", "must be one of"),
        ("* require", "policy in \\[smtp2stub\\]"),
        ("@beta.example require", "not a mail address"),
        ("bob@ require", "not a domain name"),
        ("b..e require", "not a domain name"),
        (".  require", "not a domain name"),
        ("*.beta.example require", "not a domain name"),
        ("gamma.example prefer\nGAMMA.example. require", "line 2: GAMMA.example. has a policy in line 1 already"),
    ],
)
def test_mistakes_are_named_with_their_line(line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(line)
    assert caught.value.text.startswith(f"{FILE} line ")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert parse(text).of(Address("a", "b")) in list(Policy)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "policies"
    path.write_text(TEXT)
    assert load_policies(path, Policy.NEVER).want_stub_mail
    assert not load_policies(None, Policy.NEVER).want_stub_mail
    assert load_policies(None, Policy.REQUIRE).of(Address("x", "y.example")) is Policy.REQUIRE
    path.write_bytes(b"b\xfccher.example require\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_policies(path, Policy.PREFER)
    with pytest.raises(ConfigError, match="cannot read"):
        load_policies(tmp_path / "none", Policy.PREFER)


def test_the_example_in_the_documentation_means_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "routes-and-keys.md").read_text("utf-8")
    example = page.partition("## Policies")[2].split("```")[1]
    policies = parse_policies(example, Policy.PREFER, FILE)
    found = {text: policies.of(Address.parse(f"{text}.example")) for text in ("x@partner", "x@a.partner", "x@lists")}
    assert found == {"x@partner": Policy.REQUIRE, "x@a.partner": Policy.REQUIRE, "x@lists": Policy.PREFER}
    assert policies.of(Address.parse("archive+2026@partner.example")) is Policy.NEVER
