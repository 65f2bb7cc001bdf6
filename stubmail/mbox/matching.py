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


def altered(before: Index, now: Index) -> int:
    """Return how many messages of ``now`` may be some of ``before`` that others have changed.

    New mail comes last: what nobody knows is new if it stands behind the last message that was there before. When that
    one is not to be found, it may have been changed.
    """
    there = {now.digest(number) for number in range(len(now))}
    known = {before.digest(number) for number in range(len(before))}
    gone_last = next((n for n in range(len(before)) if before.digest(len(before) - 1 - n) in there), len(before))
    new_last = next((n for n in range(len(now)) if now.digest(len(now) - 1 - n) in known), len(now))
    between = sum(now.digest(number) not in known for number in range(len(now) - new_last))
    return between + min(gone_last, new_last)


def _places(index: Index, digests: set[bytes]) -> dict[bytes, list[int]]:
    """Where in ``index`` the messages with these digests are."""
    places = defaultdict(list)
    for number in range(len(index)):
        if (digest := index.digest(number)) in digests:
            places[digest].append(number)
    return places
