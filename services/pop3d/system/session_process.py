"""The life of a session process: root while PAM is asked, then the user; the maildrop, the client, the end."""

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from contextlib import suppress

from services.pop3d.locations import parse_location
from services.pop3d.login import IN_USE_PAUSE, IN_USE_TRIES
from services.pop3d.maildrop import InUse, Maildrop
from services.pop3d.running import SWITCH_SECONDS
from services.pop3d.settings import Pop3d
from services.pop3d.system import people
from services.pop3d.system.calls import MAX_CALL, Answer, CallError, Done, HandOver, Login
from services.pop3d.system.pam import Pam, nobodys
from services.pop3d.system.people import Person
from services.pop3d.system.privileges import become, close_all_but, end_with_parent
from services.pop3d.system.resumed import OnlyHost, Opened, Resumed
from stubmail.errors import PermanentError, TemporaryError
from stubmail.log import event

logger = logging.getLogger("pop3d")


def run(settings: Pop3d, pam: Pam, mail_group: int, descriptor: int) -> int:
    """Answer one login, and hold the session that it begins; returns the process's exit status.

    Called as root, in a process of its own. On the other end of a socket, ``descriptor``, is the front, which may have
    been taken over: nothing but a right password makes this the process of a user, and nothing makes it stay root's.
    """
    # PAM's modules may block for ever; the front has stopped waiting by then.
    signal.alarm(math.ceil(settings.login_seconds))
    os.chdir("/")
    try:
        call = socket.socket(fileno=descriptor)
        login = Login.from_wire(call.recv(MAX_CALL))
    except (CallError, OSError) as error:
        event(logger, "failed", level=logging.ERROR, reason=f"the front said {error}")
        return 1
    answer, person = _authenticate(settings, pam, login)
    if person is None:
        return _say(call, answer)
    at_home = people.at_home(settings.system_maildrop)
    # Who is in the group of mail may open the mailboxes of others: no more so than it needs.
    become(person.uid, person.gid if at_home else mail_group, person.groups)
    end_with_parent()
    close_all_but([call.fileno()])
    answer, maildrop = _open(settings, person, login)
    status = _say(call, answer)
    if maildrop is None:
        return status
    try:
        taken = _take(settings, call) if not status else None
    except BaseException:
        maildrop.close()
        raise
    signal.alarm(0)
    if taken is None:
        maildrop.close()
        return 0
    handed, client = taken
    sys.setswitchinterval(SWITCH_SECONDS)
    with client:
        asyncio.run(_go_on(settings, Opened(person.name, maildrop, login, handed), client, call))
    return 0


def _authenticate(settings: Pop3d, pam: Pam, login: Login) -> tuple[Answer, Person | None]:
    name = login.name.encode("latin-1")
    person = people.find(name, settings.system_min_uid)
    # The password of root, and of others who cannot log in, is not even tried: nobody is to guess it here.
    password = login.password.encode("latin-1") if person is not None else nobodys()
    try:
        known = pam.authenticate(name, password, login.address)
    except TemporaryError as error:
        event(logger, "failed", login.session, logging.ERROR, reason=error.text)
        return Answer(code="SYS/TEMP", text="Passwords cannot be checked now"), None
    if known is None:
        return Answer(code="AUTH"), None
    if known != name:
        person = people.find(known, settings.system_min_uid)
    return Answer(code="AUTH"), person


def _open(settings: Pop3d, person: Person, login: Login) -> tuple[Answer, Maildrop | None]:
    """Open the user's maildrop, as that user."""
    code, text, reason = "", "", ""
    try:
        place = people.location(settings.system_maildrop, person)
        people.check_own(place, person)
        return Answer(user=person.name), _when_free(place)
    except InUse:
        code, text, reason = "IN-USE", "Another session has the maildrop open", "maildrop in use"
    except (PermanentError, PermissionError) as error:
        code, text, reason = "SYS/PERM", "The maildrop cannot be opened", str(error)
    except (TemporaryError, OSError) as error:
        code, text, reason = "SYS/TEMP", "The maildrop cannot be opened now", str(error)
    level = logging.INFO if code == "IN-USE" else logging.ERROR
    event(logger, "refused" if code == "IN-USE" else "failed", login.session, level, user=person.name, reason=reason)
    return Answer(code=code, text=text), None


def _when_free(place: str) -> Maildrop:
    """Open a maildrop; a client that lost its connection comes back before its end is noticed."""
    for _ in range(IN_USE_TRIES):
        try:
            return parse_location(place).open()
        except InUse:
            time.sleep(IN_USE_PAUSE)
    return parse_location(place).open()


def _say(call: socket.socket, answer: Answer) -> int:
    try:
        call.send(answer.to_wire())
    except OSError:  # nobody waits for it any more
        return 1
    return 0


def _take(settings: Pop3d, call: socket.socket) -> tuple[HandOver, socket.socket] | None:
    """Wait for the client's socket; None when the front has let go of this session."""
    call.settimeout(settings.login_seconds)
    data, descriptors = b"", list[int]()
    with suppress(OSError):
        data, descriptors, _, _ = socket.recv_fds(call, MAX_CALL, 1)
    try:
        handed = HandOver.from_wire(data)
        [descriptor] = descriptors
        client = socket.socket(fileno=descriptor)
    except (CallError, ValueError, OSError):
        return None  # what came with it is closed by the end of this process
    client.setblocking(False)
    return handed, client


async def _go_on(settings: Pop3d, opened: Opened, client: socket.socket, call: socket.socket) -> None:
    """Hold the session until its end."""
    loop = asyncio.get_running_loop()
    host = OnlyHost(settings)
    connection = Resumed(host, opened)

    def last_call() -> None:
        if not connection.committing:
            connection.abort("the server stops")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.call_later, settings.drain_seconds, last_call)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    if client.family == socket.AF_UNIX:
        await loop.create_unix_connection(lambda: connection, sock=client)
    else:
        await loop.create_connection(lambda: connection, sock=client)
    await host.left.wait()
    host.mail.shutdown()
    totals = host.counters.totals().items()  # the connection was counted where it came from
    counts = {name: number for name, number in totals if number and not name.startswith("connections ")}
    call.setblocking(False)
    with suppress(OSError):
        call.send(Done(counts).to_wire())
