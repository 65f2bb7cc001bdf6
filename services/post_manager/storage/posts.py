"""Posts from the sender's side: store them exactly once, within the sender's quota (protocol.md §5.2)."""

from collections.abc import Sequence

from services.post_manager.storage import intake
from services.post_manager.storage.contents import Body
from services.post_manager.storage.database import Database
from services.post_manager.storage.intake import NewPost, Refused, Sender, Terms, Verdict, Wanted
from services.post_manager.storage.nonces import Nonce, Replayed
from stubmail.steps import Steps, finished


def store(
    database: Database,
    sender: Sender,
    new: Sequence[NewPost],
    bodies: Sequence[Body],
    terms: Terms,
    now: int,
    nonce: Nonce | None = None,
) -> list[Verdict]:
    """Store posts durably, all in one transaction; None for each that is stored, now or ever before.

    ``nonce`` is used up in the same transaction. Raises Replayed when it was used before, or StorageError; then none
    of them is stored that was not before.
    """
    return finished(store_together(database, Wanted(sender, new, bodies, terms, now, nonce)))


def store_together(database: Database, wanted: Wanted) -> Steps[list[Verdict]]:
    """As ``store``, in two steps: what others bring before the second one is stored in the same transaction."""
    job = database.begin(intake.store, wanted)
    yield
    verdicts = job.result()
    if verdicts is None:
        raise Replayed
    return verdicts


__all__ = ["NewPost", "Refused", "Sender", "Terms", "Wanted", "store", "store_together"]
