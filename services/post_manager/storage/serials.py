"""Serials: larger with every post, also behind a restored backup, a copied file or a replica that lagged behind.

Pullers do not list again up to a serial that they have dealt with (protocol.md §5.3, §6.2). A counter alone would go
back with the database that holds it. So a serial is never below the time, in units of 2^-20 seconds: whatever state
of the counter comes back, the time has gone on, and no store gets a million posts a second.
"""

from sqlalchemy import Connection, update

from services.post_manager.storage.schema import SERIAL, counters
from services.post_manager.storage.statements import fetch

BITS = 20  # of a serial below its whole seconds; 43 are left for these: enough for 278,000 years

# The counter's row stays locked until the commit, so that serials become visible in their order: whoever has seen
# one will never see a smaller one appear.
_TAKE = (
    "UPDATE counters SET value = CASE WHEN value < floor.column1 THEN floor.column1 ELSE value END + floor.column2"  # noqa: S608
    f" FROM (VALUES {{}}) AS floor WHERE name = '{SERIAL}' RETURNING value"
)


def floor(now: int) -> int:
    """Return what every serial taken at this Unix time or later is larger than."""
    return now << BITS


def take(connection: Connection, number: int, now: int) -> int:
    """Take ``number`` serials, all larger than any that was taken before; return the first of them."""
    [(last,)] = fetch(connection, _TAKE, [(floor(now), number)])
    return int(last) - number + 1


def lift(connection: Connection, least: int) -> None:
    """Have all serials be larger than ``least`` from now on."""
    counter = update(counters).where(counters.c.name == SERIAL, counters.c.value < least)
    connection.execute(counter.values(value=least))
