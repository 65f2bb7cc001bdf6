"""Where mail for each recipient goes: DNS and key servers asked in threads, no domain standing in another's way."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

from services.smtp2stub.account import Account
from services.smtp2stub.keys import Addressee
from stubmail.address import Address
from stubmail.discovery import Resolver
from stubmail.errors import StubmailError, TemporaryError
from stubmail.known_domains import KnownDomains
from stubmail.log import event
from stubmail.routing import Policy, Route, decide

PATIENCE = 3.0  # seconds; the recipients whose domain takes longer are served at a later attempt, the others now
MAX_REFRESHES = 4  # keys of which news are asked for at the same time
ASK_SECONDS = 30.0  # for which one message's recipients at one domain may keep a thread asking for their keys
PER_DOMAIN = 2  # lookups for one domain at the same time
FAILURE_SECONDS = 4.0  # for which a domain that could not be looked up is not asked again; under the first retry delay

Found = Addressee | Route | StubmailError  # a key; Route.SMARTHOST; or why not, now or ever

_log = logging.getLogger("smtp2stub.courier")


@dataclass(slots=True)
class _Gate:
    """One domain: how many lookups run or wait, and the last failure with its time."""

    semaphore: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PER_DOMAIN))
    users: int = 0


class Destinations:
    """Finds out, for recipients, how their mail travels and with which key.

    ``policy_of`` returns the policy for a recipient. ``threads`` is the pool for lookups, of which a slow domain can
    hold PER_DOMAIN. ``smarthost``: there is one.
    """

    def __init__(
        self,
        resolver: Resolver,
        known: KnownDomains,
        policy_of: Callable[[Address], Policy],
        *,
        smarthost: bool,
        threads: Executor,
        clock: Callable[[], float],
        patience: float = PATIENCE,
    ) -> None:
        self._resolver = resolver
        self._known = known
        self._policy_of = policy_of
        self._smarthost = smarthost
        self._threads = threads
        self._clock = clock
        self._patience = patience
        self._gates: dict[str, _Gate] = {}
        self._failures: dict[str, tuple[float, TemporaryError]] = {}
        self._lookups: set[asyncio.Task[Mapping[Address, Found]]] = set()
        self._refreshes: set[asyncio.Future[None]] = set()

    async def find(self, account: Account | StubmailError, recipients: Sequence[Address]) -> dict[Address, Found]:
        """Return what was found for each recipient; never raises for what a domain does.

        ``account`` is the sender's, or why it cannot send stub mail now.
        """
        found: dict[Address, Found] = {}
        by_domain: dict[str, list[Address]] = {}
        for recipient in recipients:
            if self._policy_of(recipient) is Policy.NEVER:  # it is nobody's business what the domain offers
                found[recipient] = self._route(recipient, offered=False, remembered=False)
            else:
                by_domain.setdefault(recipient.domain, []).append(recipient)
        if by_domain:
            found |= await self._find_by_domain(account, by_domain)
        return found

    def forget_failures(self) -> None:
        """Ask again at once, also those domains that have just failed."""
        self._failures.clear()

    @property
    def is_idle(self) -> bool:
        """Whether no thread asks anything; one that does may have to wait for its answer for long."""
        return not self._lookups and not self._refreshes

    async def _find_by_domain(
        self, account: Account | StubmailError, by_domain: Mapping[str, Sequence[Address]]
    ) -> dict[Address, Found]:
        lookups = {
            asyncio.create_task(self._look_up(account, domain, members)): members
            for domain, members in by_domain.items()
        }
        self._lookups.update(lookups)  # those that take too long go on, and what they find is there next time
        for task in lookups:
            task.add_done_callback(self._lookups.discard)
        done, late = await asyncio.wait(lookups, timeout=self._patience)
        found: dict[Address, Found] = {}
        for task in done:
            found.update(task.result())
        slow = TemporaryError("4.4.3", "the domain's name servers or key server are slow to answer")
        found.update({recipient: slow for task in late for recipient in lookups[task]})
        return found

    async def _look_up(
        self, account: Account | StubmailError, domain: str, recipients: Sequence[Address]
    ) -> Mapping[Address, Found]:
        gate = self._gates.setdefault(domain, _Gate())
        gate.users += 1
        try:
            async with gate.semaphore:
                if failure := self._recent_failure(domain):
                    return dict.fromkeys(recipients, failure)
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._threads, self._ask, account, domain, recipients)
            if isinstance(account, Account):
                self._refresh(account, [way for way in found.values() if isinstance(way, Addressee)])
            return found
        except StubmailError as error:
            if isinstance(error, TemporaryError):
                self._failures[domain] = (self._clock() + FAILURE_SECONDS, error)
            return dict.fromkeys(recipients, error)
        except OSError as error:
            event(_log, "failed", level=logging.ERROR, reason=f"for {domain}: {error}")
            return dict.fromkeys(recipients, TemporaryError("4.3.0", "the gateway's disk cannot be written"))
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[domain]

    def _ask(
        self, account: Account | StubmailError, domain: str, recipients: Sequence[Address]
    ) -> Mapping[Address, Found]:
        """In a thread: what the domain offers, and the recipients' keys. Raises StubmailError and OSError."""
        offer = self._resolver.discover(domain)
        if offer is not None:
            self._known.remember(domain)  # before anything relies on it
        remembered = offer is None and domain in self._known
        found: dict[Address, Found] = {}
        end = time.monotonic() + ASK_SECONDS
        for recipient in recipients:
            route = self._route(recipient, offered=offer is not None, remembered=remembered)
            if route is not Route.STUB:
                found[recipient] = route
            elif isinstance(account, StubmailError):
                found[recipient] = account
            else:
                assert offer is not None
                try:
                    found[recipient] = account.keys.find(recipient, offer, ask=time.monotonic() < end)
                except StubmailError as error:
                    found[recipient] = error
        return found

    def _refresh(self, account: Account, addressees: Sequence[Addressee]) -> None:
        """Ask for news of keys that are due, without anybody waiting for it; when there are too many, another time."""
        loop = asyncio.get_running_loop()
        for addressee in addressees:
            if len(self._refreshes) < MAX_REFRESHES and account.keys.is_due(addressee):
                task = loop.run_in_executor(self._threads, self._ask_again, account, addressee.address)
                self._refreshes.add(task)
                task.add_done_callback(self._refreshed)

    def _refreshed(self, task: "asyncio.Future[None]") -> None:
        self._refreshes.discard(task)
        if not task.cancelled() and (error := task.exception()):
            event(_log, "failed", level=logging.ERROR, error=repr(error))

    def _ask_again(self, account: Account, address: Address) -> None:
        """In a thread; fails quietly, the domain's records may be gone in the meantime."""
        with suppress(StubmailError):
            if (offer := self._resolver.discover(address.domain)) is not None:
                account.keys.refresh(address, offer)

    def _route(self, recipient: Address, *, offered: bool, remembered: bool) -> Route | StubmailError:
        try:
            return decide(
                recipient.domain,
                offered=offered,
                policy=self._policy_of(recipient),
                remembered=remembered,
                smarthost=self._smarthost,
            )
        except StubmailError as error:
            return error

    def _recent_failure(self, domain: str) -> TemporaryError | None:
        now = self._clock()
        if len(self._failures) > len(self._gates):
            self._failures = {name: entry for name, entry in self._failures.items() if entry[0] > now}
        until, error = self._failures.get(domain, (0.0, None))
        return error if until > now else None
