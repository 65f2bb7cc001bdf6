"""How mail for one recipient travels: as stub mail, through the smarthost, later, or not at all. Sans-IO."""

from enum import StrEnum

from stubmail.errors import PermanentError, TemporaryError


class Policy(StrEnum):
    """What the owner of the gateway wants."""

    REQUIRE = "require"  # stub mail or nothing
    PREFER = "prefer"  # stub mail where the domain offers it, the smarthost elsewhere
    NEVER = "never"  # the smarthost, whatever the domain offers


class Route(StrEnum):
    """How mail leaves."""

    STUB = "stub"
    SMARTHOST = "smarthost"


def decide(domain: str, *, offered: bool, policy: Policy, remembered: bool, smarthost: bool) -> Route:
    """Return the route to a domain that offers stub mail, or does not, as DNS says with authority.

    ``offered`` means nothing with the policy ``never``, and nobody need ask then. ``remembered``: the domain has
    offered stub mail before; ``smarthost``: there is one. What DNS could not tell is the caller's to defer: it never
    comes here (protocol.md §3.3).

    Raises TemporaryError when a domain that had stub mail seems to have none now: whoever can take records away must
    not get to read the mail. Raises PermanentError when there is no way.
    """
    if policy is not Policy.NEVER:
        if offered:
            return Route.STUB
        if remembered:
            advice = f"if it has given up stub mail, the gateway's administrator says: stubmail domains forget {domain}"
            raise TemporaryError("4.7.5", f"{domain} offered stub mail before and its DNS records are gone; {advice}")
    if policy is Policy.REQUIRE:
        raise PermanentError(
            "5.7.1", f"{domain} does not offer stub mail, and by this gateway's policy nothing else will do"
        )
    if not smarthost:
        why = "is not to get stub mail" if policy is Policy.NEVER else "does not offer stub mail"
        raise PermanentError("5.4.4", f"{domain} {why}, and this gateway has no smarthost for other mail")
    return Route.SMARTHOST
