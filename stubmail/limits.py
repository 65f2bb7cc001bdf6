"""How much one address may ask for: sessions at a time, and the price of wrong passwords; time is passed in."""

import functools
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable

MAX_NETWORKS = 10_000  # remembered for their failures; the one that failed longest ago is forgotten first


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


@functools.lru_cache(MAX_NETWORKS)
def network(address: str) -> str:
    """Return what one stranger counts as: an IPv4 address, or the /64 that an IPv6 address is in.

    What is no address (a local socket's peer) counts as itself.
    """
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed or address)


def is_loopback(address: str) -> bool:
    """Tell whether a peer is on this machine: 127.0.0.0/8, ::1, and the former written as IPv6."""
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def within(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Tell whether a peer is in one of these networks; an IPv4 address may be written as IPv6."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in each for each in networks)


class SessionLimit:
    """Counts the sessions of each network, up to ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def enter(self, name: str) -> bool:
        """Count one more session from this network, unless it has as many as it may."""
        if self._open[name] >= self._most:
            return False
        self._open[name] += 1
        return True

    def leave(self, name: str) -> None:
        """Count one less."""
        self._open[name] -= 1
        if self._open[name] <= 0:
            del self._open[name]


class FailureDelays:
    """What a wrong password costs: a delay before its answer that doubles with each failure of the same network.

    ``first`` and ``longest`` are in seconds. With every ``forget`` seconds that pass the count halves.
    """

    def __init__(self, first: float, longest: float, forget: float) -> None:
        self._first, self._longest, self._forget = first, longest, forget
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name: (count, when it was that)

    def failed(self, name: str, now: float) -> float:
        """Count a failure and return after how many seconds it may be answered."""
        count = self._count(name, now)
        self._failures[name] = (count + 1, now)
        self._failures.move_to_end(name)
        while len(self._failures) > MAX_NETWORKS:
            self._failures.popitem(last=False)
        return min(self._longest, self._first * 2 ** min(count, 64.0))

    def failures(self, name: str, now: float) -> float:
        """Return how many failures count at this moment."""
        return self._count(name, now)

    def _count(self, name: str, now: float) -> float:
        count, then = self._failures.get(name, (0.0, now))
        return count * math.pow(0.5, max(0.0, now - then) / self._forget)
