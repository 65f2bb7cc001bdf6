"""From a message to posts: the protected envelope, one signature, one encryption, a head for each (protocol.md §7)."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.smtp2stub.keys import Addressee
from stubmail.address import Address
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.openpgp import Identity, split
from stubmail.store_client import NewPost


@dataclass(frozen=True, slots=True)
class Destination:
    """One recipient of a message: his index in the item, his post's id, and his key."""

    index: int
    post_id: bytes
    addressee: Addressee


def seal(
    identity: Identity,
    sender: Address,
    message: bytes,
    destinations: Sequence[Destination],
    when: datetime,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> list[NewPost]:
    """Sign and encrypt a message once for all its recipients and return their posts, in their order.

    ``sender`` is the address in ``From:``. The posts share one body object. Raises OpenPGPError.
    """
    tags = [tag(d.post_id, d.addressee.certificate.fingerprint, d.addressee.address) for d in destinations]
    certificates = {d.addressee.certificate.fingerprint: d.addressee.certificate for d in destinations}
    text = Envelope(sender, when, fill_up(tags, random)).wrap(message)
    del message  # it may be large: each form of it goes when the next one is there
    sealed = identity.seal(text, list(certificates.values()))
    del text
    heads, body = split(sealed)
    head_of = dict(zip(certificates, heads, strict=True))
    return [
        NewPost(
            id=d.post_id,
            to=d.addressee.certificate.fingerprint,
            address=d.addressee.address,
            head=head_of[d.addressee.certificate.fingerprint],
            body=body,
        )
        for d in destinations
    ]
