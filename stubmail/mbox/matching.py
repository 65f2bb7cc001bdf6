"""Finding the messages of an older look at a mailbox in a newer one, after others have written to the file."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile

from stubmail.mbox.scan import Index


def still_in(before: Index, now: Index, wanted: Sequence[int]) -> list[int]:
    """Return which messages of ``now`` are the ``wanted`` ones of ``before`` (both ascending).

    What is not there any more is passed over. When some of several identical ones are gone, they are taken to be
    among the wanted, so that never more go than were wanted.
    """
    if now.digests.startswith(before.digests):
        return list(wanted)
    digests = {before.digest(index) for index in wanted}
    old, new = _places(before, digests), _places(now, digests)
    chosen = set(wanted)
    found = []
    for digest in digests:
        ranks = [rank for rank, index in enumerate(old[digest]) if index in chosen]
        gone = max(0, len(old[digest]) - len(new[digest]))
        found += [new[digest][rank - gone] for rank in ranks[gone:]]
    return sorted(found)


def altered(before: Index, now: Index) -> int:
    """Return how many messages of ``now`` may be some of ``before`` that others have changed.

    New mail comes last: what nobody knows is new if it stands behind the last message that was there before. When that
    one is not to be found, it may have been changed.
    """
    was, there = _digests(before), _digests(now)
    known = set(was)
    gone, new = _behind(was, set(there)), _behind(there, known)
    between = sum(digest not in known for digest in there) - new
    return between + min(gone, new)


def _digests(index: Index) -> list[bytes]:
    return [index.digest(number) for number in range(len(index))]


def _behind(digests: Sequence[bytes], last: set[bytes]) -> int:
    """Count the digests behind the last one that is among ``last``."""
    return sum(1 for _ in takewhile(lambda digest: digest not in last, reversed(digests)))


def _places(index: Index, digests: set[bytes]) -> dict[bytes, list[int]]:
    """Where in ``index`` the messages with these digests are."""
    places = defaultdict(list)
    for number, digest in enumerate(_digests(index)):
        if digest in digests:
            places[digest].append(number)
    return places
