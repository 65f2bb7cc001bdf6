"""Password schemes of the users file: {ARGON2ID} for real use, {PLAIN} where a protocol needs the secret itself."""

import hmac
import secrets

import argon2

_HASHER = argon2.PasswordHasher()


def hash_password(password: str) -> str:
    """Return ``{ARGON2ID}…`` for a new entry in the users file (RFC 9106)."""
    return "{ARGON2ID}" + _HASHER.hash(password)


def check_password(stored: str, password: str) -> bool:
    """Tell whether ``password`` is the one behind ``stored``; never raises.

    CPU-bound for tens of milliseconds with Argon2id: call it off the event loop. For a login that does not exist,
    check against ``decoy()`` of the scheme in use and refuse, so that the answer takes the same time.
    """
    scheme, _, value = stored.partition("}")
    match scheme.removeprefix("{").upper():
        case "PLAIN":
            return hmac.compare_digest(value.encode(), password.encode())
        case "ARGON2ID":
            return _verify(value, password)
        case _:
            return False


def decoy(stored: str) -> str:
    """Return an entry of the same scheme as ``stored`` that no password matches."""
    secret = secrets.token_hex(16)
    return "{PLAIN}" + secret if stored.upper().startswith("{PLAIN}") else hash_password(secret)


def known_scheme(stored: str) -> bool:
    """Tell whether an entry of the users file has a scheme that check_password understands."""
    return stored.upper().startswith(("{PLAIN}", "{ARGON2ID}"))


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
