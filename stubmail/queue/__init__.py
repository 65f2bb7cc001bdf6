"""The gateway's queue: mail that was accepted and has yet to leave, as files that say for themselves where it stands.

    incoming/NAME       one or more records: messages that were accepted together, never changed
    queue/ID.mail       one record: a message that could not leave at once, never changed
    queue/ID.json       its progress: what became of each recipient, when it is tried again
    queue/ID.told       the number of the last notice (DSN) about it that is in the sender's maildrop
    orders/ID.WORD      hold, retry or drop: what a person wants done with it
    bell                a FIFO: one octet in it means "look again"
    *.lock              held by the one process that may write there

A message counts as accepted from the instant when its file in ``incoming`` is durable under its name; it counts as
gone when neither a file there nor ``queue/ID.mail`` has its record. A message is in one of these states:

    | in incoming | ID.mail | ID.json | state                                                      |
    |-------------|---------|---------|------------------------------------------------------------|
    | yes         | no      | no      | accepted, not tried yet or being tried for the first time  |
    | yes         | yes     | no      | being filed: ``ID.mail`` counts, the record behind it not  |
    | no          | yes     | no      | filed; nothing is known to have left                       |
    | yes or no   | yes     | yes     | tried; ``ID.json`` says what has left                      |
    | no          | no      | yes     | gone; what is left is removed at the next start            |

The receiver alone adds to ``incoming``; the courier alone removes from it and writes ``queue``; anybody else may only
read, give orders and ring. A crash in a row repeats at most what that row does not know to have happened: posts are
stored again under the same ids, which changes nothing.
"""

from stubmail.queue.bell import Bell, ring
from stubmail.queue.directory import DEFAULT_SPOOL, ORDERS, Order, Queue, Stored
from stubmail.queue.item import MAX_RECIPIENTS, MAX_RECORD_HEAD, Item, ItemError, Recipient, new_queue_id
from stubmail.queue.progress import SILENT, Outcome, Progress, State

__all__ = [
    "DEFAULT_SPOOL",
    "MAX_RECIPIENTS",
    "MAX_RECORD_HEAD",
    "ORDERS",
    "SILENT",
    "Bell",
    "Item",
    "ItemError",
    "Order",
    "Outcome",
    "Progress",
    "Queue",
    "Recipient",
    "State",
    "Stored",
    "new_queue_id",
    "ring",
]
