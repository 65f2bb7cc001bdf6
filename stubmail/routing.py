"""How mail for one domain travels: as stub mail, through the smarthost, later, or not at all. Sans-IO."""

from enum import StrEnum

from stubmail.discovery import StubDomain
from stubmail.errors import PermanentError, TemporaryError


class Policy(StrEnum):
    """What the owner of the gateway wants."""

    REQUIRE = "require"  # stub mail or nothing
    PREFER = "prefer"  # stub mail where the domain offers it, the smarthost elsewhere
    NEVER = "never"  # the smarthost for all


class Route(StrEnum):
    """How mail leaves."""

    STUB = "stub"
    SMARTHOST = "smarthost"


def decide(domain: str, offer: StubDomain | None, *, policy: Policy, remembered: bool, smarthost: bool) -> Route:
    """Return the route for a domain of which DNS says, with authority, that it offers this much.

    ``offer`` is None when DNS says that the domain has no stub mail, or, with the policy ``never``, when nobody asked.
    ``remembered``: the domain has offered stub mail before; ``smarthost``: there is one. What DNS could not tell is
    the caller's to defer: it never comes here (protocol.md §3.3).

    Raises TemporaryError when a domain that had stub mail seems to have none now: whoever can take records away must
    not get to read the mail. Raises PermanentError when there is no way.
    """
    if policy is not Policy.NEVER:
        if offer is not None:
            return Route.STUB
        if remembered:
            raise TemporaryError("4.7.5", f"{domain} offered stub mail before and its DNS records are gone")
    if policy is Policy.REQUIRE:
        raise PermanentError("5.7.1", f"{domain} does not offer stub mail, and nothing else may be used")
    if not smarthost:
        raise PermanentError("5.4.4", f"{domain} does not offer stub mail, and there is no smarthost for other mail")
    return Route.SMARTHOST
