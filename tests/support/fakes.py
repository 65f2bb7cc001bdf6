"""Stand-ins that keep to the interface of what they stand for and do the simplest thing that behaves."""

from stubmail.errors import TemporaryError
from tests.support.ports import LOOPBACK


class FakeResolver:
    """Knows the addresses of the hosts it was given, and everything else at loopback; ``asked`` lists the questions."""

    def __init__(self, hosts: dict[str, list[str]] | None = None) -> None:
        self._hosts = hosts or {}
        self.asked: list[str] = []

    def addresses(self, host: str) -> list[str]:
        """As stubmail.discovery.Resolver.addresses."""
        self.asked.append(host)
        found = self._hosts.get(host, [LOOPBACK])
        if not found:
            raise TemporaryError("4.4.4", f"{host} has no address")
        return found
