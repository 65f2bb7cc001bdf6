"""The client's side of SCRAM-SHA-256, after RFC 5802 §3 and §5."""

import base64
import hashlib
import hmac


class ScramClient:
    """One exchange; ``header`` is GS2's, ``bound`` what the client knows of the channel."""

    def __init__(self, name: str, password: str, header: bytes = b"n,,", bound: bytes = b"") -> None:
        self._password = password.encode()
        self._header, self._bound = header, bound
        self._bare = f"n={name},r=fyko+d2lbbFgONRv9qkxdawL".encode()
        self.first = header + self._bare
        self.expected = b""
        """What the server says at the end when it knows the password too."""

    def final(self, challenge: bytes) -> bytes:
        """Return the answer to the server's first message."""
        values = dict(part.split(b"=", 1) for part in challenge.split(b","))
        salt = base64.b64decode(values[b"s"])
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, int(values[b"i"]))
        without_proof = b"c=" + base64.b64encode(self._header + self._bound) + b",r=" + values[b"r"]
        whole = b",".join((self._bare, challenge, without_proof))
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), whole, "sha256")
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), whole, "sha256")
        self.expected = b"v=" + base64.b64encode(server)
        return without_proof + b",p=" + base64.b64encode(proof)
