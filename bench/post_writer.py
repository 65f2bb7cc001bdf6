"""Stores posts at a steady rate, as a store's HTTP workers do: one durable transaction for each.

python -m bench.post_writer URL RATE SECONDS
"""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

from bench.store_house import address_of, fingerprints
from services.post_manager.storage import posts
from services.post_manager.storage.database import Database
from services.post_manager.storage.nonces import Nonce
from services.post_manager.storage.posts import NewPost, Sender, Terms

SIZE = 5_000  # octets of a post
TERMS = Terms(10**9, 10**13, 10**9, 10**6)


class _Octets:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest = sha256(data).digest()
        self.size = len(data)

    def read(self) -> bytes:
        return self.data

    def pieces(self, size: int) -> Iterator[bytes]:
        return (self.data[start : start + size] for start in range(0, self.size, size))


def main() -> None:
    """Store, and say how many a second there were."""
    url, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    recipients = fingerprints(1000)
    sender = Sender(recipients[0], address_of(recipients[0]))
    stored = 0
    with closing(Database(url, 1)) as database:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            if stored > passed * rate:
                time.sleep(stored / rate - passed)
                continue
            recipient = recipients[stored % len(recipients)]
            post = NewPost(secrets.token_bytes(16), recipient, address_of(recipient), b"head", 0)
            now = int(time.time())
            nonce = Nonce(sender.fingerprint, secrets.token_bytes(16), now)
            posts.store(database, sender, [post], [_Octets(secrets.token_bytes(SIZE))], TERMS, now, nonce)
            stored += 1
    print(f"{stored / passed:.0f}")


if __name__ == "__main__":
    main()
