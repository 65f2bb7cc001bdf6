"""Which mail has to travel as stub mail: policies by address and domain, written like Postfix's transport(5) table.

One rule a line: a pattern, blanks, and ``require``, ``prefer`` or ``never``. The pattern is ``user@domain``,
``domain`` (itself, not its subdomains) or ``.domain`` (its subdomains, not itself). The most specific rule counts,
wherever it stands: the whole address, the address without its subaddress, the domain, then ``.domain`` from the
longest to the shortest. Lines that begin with ``#`` are comments.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stubmail.address import Address, AddressError, parse_domain
from stubmail.routing import Policy
from stubmail.settings import ConfigError

_CHOICES = ", ".join(Policy)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the file: the policy, the pattern as it is written there, and the line's number."""

    policy: Policy
    pattern: str
    line: int


class Policies:
    """The rules of one file, by canonical pattern, and what holds where none of them fits."""

    def __init__(self, default: Policy, rules: Mapping[str, Rule] | None = None, path: Path | None = None) -> None:
        self.default = default
        self._rules = dict(rules or {})
        self._path = path

    def __len__(self) -> int:
        return len(self._rules)

    @property
    def want_stub_mail(self) -> bool:
        """Whether there is anybody whose mail may travel as stub mail."""
        return any(policy is not Policy.NEVER for policy in (self.default, *(r.policy for r in self._rules.values())))

    def of(self, recipient: Address) -> Policy:
        """Return the policy for mail to this recipient."""
        rule = self._rule(recipient)
        return rule.policy if rule else self.default

    def explain(self, recipient: Address) -> str:
        """Return the policy and where it comes from, for people."""
        rule = self._rule(recipient)
        if rule is None:
            return f"{self.default}, which is the default"
        return f"{rule.policy}, by {rule.pattern} in line {rule.line} of {self._path}"

    def _rule(self, recipient: Address) -> Rule | None:
        return next((self._rules[key] for key in _keys(recipient) if key in self._rules), None)


def _keys(recipient: Address) -> Iterator[str]:
    """The patterns that fit a recipient, the most specific first."""
    yield recipient.key
    yield recipient.base.key
    yield recipient.domain
    parent = recipient.domain
    while "." in parent:
        parent = parent.partition(".")[2]
        yield f".{parent}"


def parse_policies(text: str, default: Policy, path: Path) -> Policies:
    """Read a file's text. Raises ConfigError that names the line and what is wrong with it."""
    rules: dict[str, Rule] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{path} line {number}"
        if len(words) != 2:
            raise ConfigError(f"{where}: a pattern and one of {_CHOICES} must stand there, not {line.strip()!r}")
        pattern, policy = words
        if policy not in list(Policy):
            raise ConfigError(f"{where}: {policy!r} must be one of {_CHOICES}")
        key = _canonical(pattern, where)
        if key in rules:
            raise ConfigError(f"{where}: {pattern} has a policy in line {rules[key].line} already")
        rules[key] = Rule(Policy(policy), pattern, number)
    return Policies(default, rules, path)


def load_policies(path: Path | None, default: Policy) -> Policies:
    """Read a policies file; without one the default is for all. Raises ConfigError."""
    if path is None:
        return Policies(default)
    try:
        return parse_policies(path.read_text("utf-8"), default, path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error


def _canonical(pattern: str, where: str) -> str:
    """Return a pattern in the form in which recipients are looked up."""
    if pattern == "*":
        raise ConfigError(f"{where}: what holds for all others is said by policy in [smtp2stub], not by *")
    try:
        if "@" in pattern:
            return Address.parse(pattern).key
        dot = "." if pattern.startswith(".") else ""
        return dot + parse_domain(pattern.removeprefix("."))
    except AddressError as error:
        raise ConfigError(f"{where}: {error}") from error
