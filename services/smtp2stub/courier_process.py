"""The courier's process: puts its parts together, listens to the bell and to signals, and ends without hurry."""

import asyncio
import logging
import os
import random
import signal
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from services.smtp2stub.account import Account
from services.smtp2stub.connections import IDLE_SECONDS, Connections
from services.smtp2stub.counters import Counters
from services.smtp2stub.courier import Courier
from services.smtp2stub.destinations import Destinations
from services.smtp2stub.dispatch import RELAYS, Dispatch, Relay
from services.smtp2stub.notices import Notices
from services.smtp2stub.posting import Posting
from services.smtp2stub.relay import Smarthost, relay
from services.smtp2stub.schedule import Schedule
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.status import Status
from stubmail.admin import Admin
from stubmail.cli import parse_listen
from stubmail.discovery import Resolver, configured_store
from stubmail.errors import Exit, PermanentError
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.known_domains import DIRECTORY, KnownDomains
from stubmail.log import event
from stubmail.policies import Policies, load_policies
from stubmail.queue import Bell, Queue
from stubmail.routing import Policy
from stubmail.settings import ConfigError, Dns
from stubmail.users import load_users

LOOKUP_THREADS = 32
POST_THREADS = 4
DISK_THREADS = 4
DAY = 86_400.0
HOUR = 3600.0

_log = logging.getLogger("smtp2stub.courier")


def run(host: str, dns: Dns, options: Smtp2stub, admin: socket.socket | None = None) -> None:
    """Carry mail until SIGTERM; SIGHUP reads users, policies and keys anew. ``host`` is our name. Raises Exit."""
    asyncio.run(_Process(host, dns, options, admin).run())


class _Process:
    def __init__(self, host: str, dns: Dns, options: Smtp2stub, admin: socket.socket | None) -> None:
        self._host = host
        self._listener = admin
        self._stopping = False
        self._options = options
        self._resolver = Resolver.from_settings(dns)
        self._store = configured_store(options.store)
        self._http = HttpClient(self._resolver.for_configured_hosts() if self._store else self._resolver)
        self._users = load_users(options.users)
        self._policies = self._load_policies()
        self._accounts: dict[str, Account] = {}
        self._destinations: Destinations | None = None
        self._notices: Notices | None = None
        self._count: Callable[[str], None] = lambda name: None

    async def run(self) -> None:
        queue = Queue(self._options.spool)
        queue.create()
        with ExitStack() as resources:
            resources.enter_context(queue.lock("courier"))
            bell = Bell(queue.bell_path)
            resources.callback(bell.close)
            counters = Counters(queue.root)
            resources.callback(counters.close)
            self._count = counters.add
            courier = self._courier(queue, counters, resources)
            courier.recover()
            loop = asyncio.get_running_loop()
            loop.add_reader(bell, _heard, bell, courier)
            resources.callback(loop.remove_reader, bell)
            stopped = asyncio.Event()
            if self._listener is not None:
                status = Status(queue, counters, self._options.reserve_bytes, lambda: self._stopping)
                admin = Admin(self._listener, status.pages)
                admin.start()
                resources.callback(admin.stop)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopped.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload, courier)
            work = asyncio.create_task(courier.run())
            await asyncio.wait([work, asyncio.create_task(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)
            self._stopping = True
            courier.stop()
            try:
                await asyncio.wait_for(work, self._options.drain_seconds)
            except TimeoutError:
                # Threads that wait for the network cannot be called back; all they might still do can be repeated.
                if self._notices is not None:
                    self._notices.interrupt()
                event(_log, "stopped", reason="with attempts under way")
                os._exit(os.EX_OK)
            event(_log, "stopped", **counters.snapshot())
            if self._destinations is not None and not self._destinations.is_idle:
                os._exit(os.EX_OK)  # nobody waits any more for what these threads ask

    def _courier(self, queue: Queue, counters: Counters, resources: ExitStack) -> Courier:
        options = self._options
        lookups, posts, relays, disk, notices = (
            resources.enter_context(ThreadPoolExecutor(size, name))
            for size, name in (
                (LOOKUP_THREADS, "lookup"),
                (POST_THREADS, "post"),
                (RELAYS, "relay"),
                (DISK_THREADS, "disk"),
                (1, "notices"),
            )
        )
        destinations = self._destinations = Destinations(
            self._resolver,
            KnownDomains(options.spool / DIRECTORY),
            lambda recipient: self._policies.of(recipient),
            smarthost=bool(options.smarthost),
            threads=lookups,
            clock=time.time,
        )
        lifetime = options.queue_lifetime_days * DAY
        self._notices = Notices(queue, lambda: self._users, self._host, lifetime, options.pipe_seconds, time.time)
        return Courier(
            queue,
            Dispatch(self._account, destinations, Posting(posts), self._relay(resources), relays),
            self._notices,
            Schedule(options.retry_min_seconds, options.retry_max_seconds, lifetime, options.delay_notice_hours * HOUR),
            disk=disk,
            notices=notices,
            clock=time.time,
            rng=random.SystemRandom(),
            counters=counters,
        )

    def _account(self, name: str) -> Account:
        if name not in self._accounts:
            user = self._users.find(name)
            if user is None:
                raise PermanentError("5.3.5", f"there is no account {name} any more")
            if user.gnupghome is None:
                raise PermanentError("5.3.5", f"the account {name} has no gnupghome")
            keyring = Keyring(user.gnupghome)
            self._accounts[name] = Account(
                user,
                keyring,
                self._resolver,
                self._http,
                time.time,
                self._store,
                self._options.sent_directory,
                refresh_seconds=self._options.key_refresh_hours * HOUR,
                count=self._count,
            )
        return self._accounts[name]

    def _relay(self, resources: ExitStack) -> Relay | None:
        host = smarthost(self._options, self._host)
        if host is None:
            return None
        connections = Connections(host.connect)
        tidying = asyncio.create_task(_tidy(connections))
        resources.callback(connections.close_idle, every=True)
        resources.callback(tidying.cancel)
        return partial(relay, connections)

    def _load_policies(self) -> Policies:
        return load_policies(self._options.policies, Policy(self._options.policy))

    def _reload(self, courier: Courier) -> None:
        try:
            self._users, self._policies = load_users(self._options.users), self._load_policies()
        except Exit as error:
            event(_log, "refused", level=logging.ERROR, reason=error.text)
            return
        self._accounts.clear()
        event(_log, "reloaded", users=len(self._users), policies=len(self._policies))
        courier.ring()


async def _tidy(connections: Connections) -> None:
    while True:
        await asyncio.sleep(IDLE_SECONDS / 2)
        await asyncio.to_thread(connections.close_idle)


def _heard(bell: Bell, courier: Courier) -> None:
    bell.clear()
    courier.ring()


def smarthost(options: Smtp2stub, name: str) -> Smarthost | None:
    """Return the smarthost that [smtp2stub] describes, None when it names none. Raises ConfigError."""
    if not options.smarthost:
        return None
    host, port = parse_listen(options.smarthost, 25)
    password = ""
    context = None
    try:
        if options.smarthost_password_file is not None:
            password = options.smarthost_password_file.read_text().removesuffix("\n")
        if options.smarthost_tls != "none":
            context = ssl.create_default_context(cafile=options.smarthost_ca)
    except (OSError, ssl.SSLError, UnicodeDecodeError) as error:
        raise ConfigError(f"[smtp2stub] the smarthost's password or certificates cannot be read: {error}") from error
    return Smarthost(host, port, options.smarthost_tls, name, context, options.smarthost_user, password)
