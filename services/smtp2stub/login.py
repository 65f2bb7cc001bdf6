"""The mechanisms of AUTH (RFC 4954): each puts its questions to the client and finds out who he is."""

import base64
import secrets
from collections.abc import Awaitable, Callable

from services.smtp2stub.authentication import Authenticator, from_base64, parse_plain
from stubmail.errors import PermanentError
from stubmail.scram import Exchange, ScramError
from stubmail.users import User

SCRAM = "SCRAM-SHA-256"
NONCE_SIZE = 18  # octets

Ask = Callable[[bytes], Awaitable[bytes]]  # sends a challenge and returns what the client answers


class AbortedError(Exception):
    """The client does not want to go on, or his answer could not be used, and he has been told so."""


class Login:
    """One attempt; ``ask`` puts a question and may raise AbortedError. Methods raise StubmailError for refusals."""

    def __init__(self, authenticator: Authenticator, peer: str, ask: Ask) -> None:
        self._authenticator = authenticator
        self._peer = peer
        self._ask = ask

    async def run(self, mechanism: str, initial: str) -> User:
        """Return who has logged in; ``initial`` is the initial response as it came, empty when there was none."""
        first = from_base64(initial) if initial else None
        if mechanism == "PLAIN":
            return await self._plain(first)
        if mechanism == "LOGIN":
            return await self._login(first)
        return await self._scram(first)

    async def _plain(self, first: bytes | None) -> User:
        answer = await self._ask(b"") if first is None else first
        identity, name, password = parse_plain(answer)
        return await self._authenticator.check(name, password, self._peer, identity)

    async def _login(self, first: bytes | None) -> User:
        name = await self._ask(b"Username:") if first is None else first
        return await self._authenticator.check(name, await self._ask(b"Password:"), self._peer)

    async def _scram(self, first: bytes | None) -> User:
        nonce = base64.b64encode(secrets.token_bytes(NONCE_SIZE))
        exchange = Exchange(nonce, lambda kind: b"", plus=False, plus_offered=False)
        try:
            exchange.first(await self._ask(b"") if first is None else first)
            keys = await self._authenticator.scram_keys(exchange.name, self._peer)
            answer = exchange.final(await self._ask(exchange.challenge(keys)))
        except ScramError as error:
            raise PermanentError("5.5.2", f"that is no SCRAM message: {error}") from error
        if answer is not None:
            await self._ask(answer)  # RFC 4954 §4: there is no data in 235, so the proof of ours is one more challenge
        return await self._authenticator.proven(exchange.name, self._peer, exchange.identity, proven=answer is not None)
