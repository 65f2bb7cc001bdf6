"""--check: try everything that the gateway needs, and say all that is wrong."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import click

from services.smtp2stub.courier_process import smarthost
from services.smtp2stub.lmtp import parse_lmtp_listen
from services.smtp2stub.receiver import tls_context
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.store_check import Sender, own_store, try_store
from stubmail.cli import parse_listen
from stubmail.discovery import Resolver, configured_store
from stubmail.errors import Exit, StubmailError
from stubmail.keyring import Keyring
from stubmail.listener import bind
from stubmail.maildrops import parse_maildrop
from stubmail.policies import Policies, load_policies
from stubmail.queue import Queue
from stubmail.routing import Policy
from stubmail.settings import ConfigError, Dns, Domain
from stubmail.spool import remove_durably, write_durably
from stubmail.users import User, Users, load_users

_ADVICE = "give it {} in the users file, or have `stubmail provision` make the account"


def check_all(domain: Domain, dns: Dns, options: Smtp2stub) -> None:
    """Try users, keys, maildrops, spool, ports, DNS, stores and the smarthost; print what is right on standard output.

    Raises the Exit when one thing is wrong; when more is, one with the first one's status and all the sentences.
    """
    users = load_users(options.users)
    policies = load_policies(options.policies, Policy(options.policy))
    errors: list[Exit] = []
    for check in _checks(domain, dns, options, users, policies):
        try:
            click.echo(check())
        except Exit as error:
            errors.append(error)
        except StubmailError as error:
            errors.append(Exit(os.EX_UNAVAILABLE, error.text))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            errors.append(Exit(os.EX_OSERR, f"{where}{error.strerror or error}"))
    if errors:
        raise Exit(errors[0].status, "; ".join(error.text for error in errors))


def _checks(
    domain: Domain, dns: Dns, options: Smtp2stub, users: Users, policies: Policies
) -> Iterator[Callable[[], str]]:
    yield lambda: _spool(options)
    yield lambda: f"tls: {'certificate read' if tls_context(options) else 'none: only this machine can send'}"
    for name in ("listen", "tls_listen", "admin_listen"):
        if text := getattr(options, name):
            yield partial(_port, name, text)
    if options.lmtp_listen:
        yield lambda: _lmtp(options.lmtp_listen)
    senders: list[Sender] = []
    yield from (partial(_user, user, senders) for user in users)
    yield lambda: f"policies: {len(policies)}, and {policies.default} for all others"
    if policies.want_stub_mail:
        resolver = Resolver.from_settings(dns)
        domains = dict.fromkeys([domain.name, *(user.address.domain for user in users if user.address)])
        yield from (partial(_store, name, resolver, options, senders) for name in domains)
    if options.smarthost:
        yield lambda: _smarthost(domain, options)


def _spool(options: Smtp2stub) -> str:
    spool = options.spool
    try:
        Queue(spool).create()
        probe = spool / ".check"
        write_durably(probe, b"")
        remove_durably(probe)
    except OSError as error:
        advice = "make it a directory of the user who runs smtp2stub, or set [smtp2stub] spool to another one"
        status = os.EX_NOPERM if isinstance(error, PermissionError) else os.EX_OSERR
        raise Exit(status, f"spool: {spool} cannot be written: {error.strerror or error}; {advice}") from error
    free = shutil.disk_usage(spool).free
    if free < options.reserve_bytes:
        advice = f"make room, or lower [smtp2stub] reserve_bytes, which is {options.reserve_bytes}"
        raise Exit(os.EX_OSERR, f"spool: {free} octets are free, and no mail would be accepted; {advice}")
    return f"spool: {spool} can be written"


def _port(name: str, text: str) -> str:
    host, port = parse_listen(text)
    try:
        bind(host, port).close()
    except Exit as error:
        cause = error.__cause__
        advice = f"set [smtp2stub] {name} to an address of this machine"
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            advice = "does another program have it, or this gateway already"
        elif error.status == os.EX_NOPERM:
            advice = f"it takes root, or CAP_NET_BIND_SERVICE; or set [smtp2stub] {name} to a port of 1024 or more"
        raise Exit(error.status, f"{name}: {error.text}; {advice}") from error
    return f"{name}: {text} is free"


def _lmtp(text: str) -> str:
    place = parse_lmtp_listen(text)
    if isinstance(place, tuple):
        return _port("lmtp_listen", text)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise Exit(os.EX_NOPERM, f"lmtp_listen: the directory {place.parent} is missing or cannot be written")
    return f"listen: {place} can be made"


def _user(user: User, senders: list[Sender]) -> str:
    """Look at an account; what it sends with is added to ``senders``."""
    if user.address is None:
        raise ConfigError(f"user {user.name} has no address and cannot send; {_ADVICE.format('address')}")
    if user.gnupghome is None:
        raise ConfigError(f"user {user.name} has no gnupghome and cannot send stub mail; {_ADVICE.format('gnupghome')}")
    try:
        identity = Keyring(user.gnupghome).identity(user.address, user.passphrase())
    except StubmailError as error:
        raise Exit(os.EX_UNAVAILABLE, f"user {user.name}: {error.text}") from error
    senders.append((user.address, identity))
    if not user.maildrop:
        raise ConfigError(f"user {user.name} has no maildrop, where notices could go; {_ADVICE.format('maildrop')}")
    location = parse_maildrop(user)
    try:
        location.check()
    except Exit as error:
        raise Exit(error.status, f"user {user.name}: {error.text}") from error
    return f"user {user.name}: {user.address}, key {identity.fingerprint}, maildrop {location}"


def _store(domain: str, resolver: Resolver, options: Smtp2stub, senders: Sequence[Sender]) -> str:
    """Try the store of a domain's accounts; one that is configured is for all of them, whatever their domain."""
    own = [sender for sender in senders if sender[0].domain == domain]
    if (fixed := configured_store(options.store)) is not None:
        return try_store(fixed, resolver.for_configured_hosts(), own)
    return try_store(own_store(domain, resolver), resolver, own)


def _smarthost(domain: Domain, options: Smtp2stub) -> str:
    host = smarthost(options, domain.host or domain.name)
    assert host is not None
    client = host.connect()
    with suppress(OSError):
        client.quit()
    return f"smarthost: {options.smarthost} takes mail"
