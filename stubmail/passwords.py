"""Password schemes of the users file: {ARGON2ID} for real use, and two for protocols that do not send the password.

{SCRAM-SHA-256} keeps what SCRAM needs and not the password (RFC 5803's values, as Dovecot writes them: iterations,
salt, StoredKey, ServerKey); {PLAIN} keeps the secret itself, which APOP and CRAM-MD5 need.
"""

import hmac
import secrets

import argon2

from stubmail import scram

_HASHER = argon2.PasswordHasher()
_MAX_MEMORY = 2**21  # KiB; an entry that asks for more than 2 GiB is a mistake


def hash_password(password: str) -> str:
    """Return ``{ARGON2ID}…`` for a new entry in the users file (RFC 9106)."""
    return "{ARGON2ID}" + _HASHER.hash(password)


def scram_password(password: str) -> str:
    """Return ``{SCRAM-SHA-256}…`` for a new entry in the users file."""
    return "{SCRAM-SHA-256}" + scram.derive(password, secrets.token_bytes(scram.SALT_SIZE)).format()


def check_password(stored: str, password: str) -> bool:
    """Tell whether ``password`` is the one behind ``stored``; never raises.

    CPU-bound for tens of milliseconds with Argon2id: call it off the event loop. For a login that does not exist,
    check against ``decoy()`` of the scheme in use and refuse, so that the answer takes the same time.
    """
    scheme, value = _split(stored)
    given = password.encode(errors="surrogatepass")
    if scheme == "PLAIN":
        return bool(value) and hmac.compare_digest(value.encode(errors="surrogatepass"), given)
    if keys := scram_keys(stored):
        return scram.matches(keys, password)
    if scheme != "ARGON2ID":
        return False
    try:
        return _HASHER.verify(value, given)
    except (argon2.exceptions.VerificationError, ValueError):  # ValueError: no hash at all
        return False


def cost(stored: str) -> int:
    """Return how long checking an entry takes, in comparison to others: what Argon2id reads and writes, in KiB.

    An iteration of SCRAM takes as long as a KiB, more or less.
    """
    if keys := scram_keys(stored):
        return keys.iterations
    parameters = _parameters(stored)
    return parameters.time_cost * parameters.memory_cost if parameters else 0


def decoy(stored: str) -> str:
    """Return an entry that no password matches, and that takes as long to check as ``stored``."""
    secret = secrets.token_hex(16)
    if keys := scram_keys(stored):
        return "{SCRAM-SHA-256}" + scram.derive(secret, secrets.token_bytes(len(keys.salt)), keys.iterations).format()
    parameters = _parameters(stored)
    if parameters is None:
        return "{PLAIN}" + secret
    hasher = argon2.PasswordHasher(parameters.time_cost, parameters.memory_cost, parameters.parallelism)
    return "{ARGON2ID}" + hasher.hash(secret)


def is_usable(stored: str) -> bool:
    """Tell whether an entry of the users file can match any password at all: a known scheme and something behind it."""
    scheme, value = _split(stored)
    if scheme == "PLAIN":
        return bool(value)
    return _parameters(stored) is not None or scram_keys(stored) is not None


def plain_secret(stored: str) -> str:
    """Return the secret that a {PLAIN} entry keeps; empty when the entry is another."""
    scheme, value = _split(stored)
    return value if scheme == "PLAIN" else ""


def scram_keys(stored: str) -> scram.Keys | None:
    """Return what a {SCRAM-SHA-256} entry keeps; None when the entry is another, or unusable."""
    scheme, value = _split(stored)
    if scheme != "SCRAM-SHA-256":
        return None
    try:
        return scram.Keys.parse(value)
    except ValueError:  # binascii's and UnicodeEncodeError are some
        return None


def _split(stored: str) -> tuple[str, str]:
    scheme, brace, value = stored.partition("}")
    return (scheme[1:].upper(), value) if brace and scheme.startswith("{") else ("", "")


def _parameters(stored: str) -> argon2.Parameters | None:
    scheme, value = _split(stored)
    if scheme != "ARGON2ID":
        return None
    try:
        found = argon2.extract_parameters(value)
    except ValueError:
        return None
    whole = found.type is argon2.Type.ID and found.salt_len >= 8 and found.hash_len >= 4
    sane = found.time_cost > 0 and 0 < 8 * found.parallelism <= found.memory_cost <= _MAX_MEMORY  # RFC 9106 §3.1
    return found if whole and sane else None
