"""Finding the messages of an older look at a mailbox in a newer one, after others have written to the file."""

from collections import defaultdict
from collections.abc import Sequence

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


def _places(index: Index, digests: set[bytes]) -> dict[bytes, list[int]]:
    """Where in ``index`` the messages with these digests are."""
    places = defaultdict(list)
    for number in range(len(index)):
        if (digest := index.digest(number)) in digests:
            places[digest].append(number)
    return places
