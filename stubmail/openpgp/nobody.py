"""A recipient who cannot read: among the others he keeps Sequoia to the message format that everyone reads.

Certificates made by Sequoia say that they take version 2 of the encrypted data packet (RFC 9580 §5.13.2), and Sequoia
uses it when all recipients do. GnuPG cannot read it, and protocol.md §7.3 wants version 1. Sequoia has no switch for
that, so a message to such certificates alone is also encrypted to this one, which knows version 1 only, and its session
key is cut off before anyone sees it. Even that would tell nobody anything: the key is no key but the SHA-256 digest of
a sentence, taken as a point on Curve25519, whose secret half nobody can know.
"""

import base64

SENTENCE = b"nobody holds the secret key to this point"

CERTIFICATE = base64.b64decode(
    "xjMEXgvhABYJKwYBBAHaRw8BAQdAlchR20XjxFu7dBPZ6ernBVvcqK6YL6v+fimTGX0dCbbNBm5vYm9kecJxBBMWCAAjBQJeC+EA"
    "AhsBAh4BFiEEK0JpLEw6ej+THV6Dr5ySk1I9QJMAAIkUAQCiP730joXeUYUihd/vlJx7EVHP+UY2CNdnzTPbseG48wEAlaHOmi6l"
    "VfXTr4/riut+rLREm1N12ECh1MEg8etldAzOOAReC+EAEgorBgEEAZdVAQUBAQdA1T6lzkp6jYDaXa2ZqoimXfNlZfetSifpYXdk"
    "/VX0P2kDAQgHwm4EGBYIACAFAl4L4QACGwwWIQQrQmksTDp6P5MdXoOvnJKTUj1AkwAAvQUBALHdsoBio7vHZf3/HefBs9iN86mn"
    "sr+GRldZuhNegbiNAQDgqlxrW/WoeA1lf8/PaerxA7HPDC5FEdmIRZW/SvW8CQ=="
)
