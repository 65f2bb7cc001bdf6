"""--check's look at the stores: whether each account of a domain may store there."""

import os
from collections.abc import Sequence

from stubmail.address import Address
from stubmail.discovery import Resolver, Store
from stubmail.errors import Exit, StubmailError
from stubmail.http_client import HttpClient
from stubmail.openpgp import Identity
from stubmail.store_client import StoreClient, StoreRefused

Sender = tuple[Address, Identity]


def own_store(domain: str, resolver: Resolver) -> Store:
    """Return the store that a domain's DNS records name first. Raises the Exit that says which records to publish."""
    try:
        offer = resolver.discover(domain)
    except StubmailError as error:
        raise Exit(os.EX_UNAVAILABLE, f"store: {error.text}") from error
    if offer is None:
        raise Exit(
            os.EX_UNAVAILABLE,
            f"DNS answers, but {domain} has no stub mail records: nothing can be stored; "
            f"publish those that `stubmail dns render {domain} --host HOST` prints, or set [smtp2stub] store",
        )
    return offer.stores[0]


def try_store(store: Store, resolver: Resolver, senders: Sequence[Sender]) -> str:
    """Open a session for each of the senders, as the courier does; return a sentence.

    ``resolver`` says which addresses the store may have. Raises an Exit for all whom the store refuses, or for the
    store when it does not answer as it should.
    """
    http = HttpClient(resolver)
    refused = []
    for address, identity in senders:
        try:
            with identity:
                largest = StoreClient(http, store, identity, address).session.max_post
        except StoreRefused as error:
            refused.append(f"{address}: {error.text}")
        except StubmailError as error:
            advice = "; is post_manager running there" if error.code == "4.4.1" else ""
            raise Exit(os.EX_UNAVAILABLE, f"store: {store}: {error.text}{advice}") from error
        else:
            if not largest:
                command = f"post_manager accounts add NAME --address {address} --fingerprint {identity.fingerprint}"
                refused.append(f"it takes no mail from {address}; run `{command}` there")
    if refused:
        raise Exit(os.EX_NOPERM, f"store: {store}: {'; '.join(refused)}")
    if not senders:
        return f"store: {store} was not tried, as no account can be used"
    return f"store: {store} takes mail from {', '.join(str(address) for address, _ in senders)}"
