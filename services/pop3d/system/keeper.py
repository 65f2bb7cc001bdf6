"""The process that stays root: it has the listening sockets, starts the others, and reads no stranger's octets."""

import codecs
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from services.pop3d import running
from services.pop3d.counting import FAMILIES, make_counters
from services.pop3d.server import Bound, bind_all
from services.pop3d.settings import Pop3d
from services.pop3d.system import people, session_process
from services.pop3d.system.calls import KNOCK, MAX_PEMS
from services.pop3d.system.front import Front
from services.pop3d.system.pam import Pam
from services.pop3d.system.privileges import become, close_all_but, end_with_parent
from services.pop3d.tls import load_certificate
from stubmail.errors import Exit
from stubmail.log import event
from stubmail.metrics import expose

RESTART_SECONDS = 1.0
START_SECONDS = 10.0  # within which the front finds out that it cannot work
HOPELESS = (os.EX_CONFIG, os.EX_NOPERM, os.EX_UNAVAILABLE, os.EX_OSERR, os.EX_SOFTWARE)
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

logger = logging.getLogger("pop3d")


def keep(settings: Pop3d) -> int:
    """Serve system users until SIGTERM or SIGINT; returns the exit status. Raises Exit when it cannot begin."""
    if os.geteuid() != 0:
        raise Exit(os.EX_NOPERM, "system_users needs to be started as root: sessions run as their users")
    pam, mail_group, strangers = Pam(settings.pam_service), people.group(settings.mail_group), settings.login_user
    uid, gid = people.login_user(strangers)
    if gid == mail_group:
        raise Exit(
            os.EX_CONFIG, f"[pop3d] login_user: {strangers} is in {settings.mail_group}, and could open mailboxes"
        )
    running.allow_descriptors(settings.sessions * running.DESCRIPTORS)
    for name in ("unicode_escape", "idna", "latin-1"):
        codecs.lookup(name)  # Python may be where users cannot read it: what is needed later is loaded now
    running.loop_factory()
    with ExitStack() as stack:
        bound = [(stack.enter_context(one), implicit_tls) for one, implicit_tls in bind_all(settings)]
        return Keeper(settings, pam, mail_group, (uid, gid), bound).run()


class Keeper:
    """Front and session processes, as their parent."""

    def __init__(
        self, settings: Pop3d, pam: Pam, mail_group: int, login_user: tuple[int, int], bound: Sequence[Bound]
    ) -> None:
        self._settings = settings
        self._pam = pam
        self._mail_group = mail_group
        self._login_user = login_user
        self._bound = bound
        self._sessions: set[int] = set()
        self._front = 0  # its pid, or 0
        self._first = True  # whether there was no other before
        self._started = self._next_front = 0.0  # when it was, when to start the next
        self._control: socket.socket | None = None
        self._stopping = False
        self._status = 0
        self._signals: list[int] = []

    def run(self) -> int:
        """Run until all have ended after a signal to stop; returns the exit status."""
        gc.freeze()  # what is in memory now stays shared with the processes that are forked from this one
        reading, writing = socket.socketpair()
        with reading, writing:
            reading.setblocking(False)
            writing.setblocking(False)
            before = {number: signal.signal(number, lambda number, _: None) for number in HANDLED}
            wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            try:
                while not self._stopping or self._front or self._sessions:
                    self._turn(reading)
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
                self._close_control()
        return self._status

    def _turn(self, reading: socket.socket) -> None:
        """Wait for something to happen, and see to it."""
        timeout = None
        if not self._front and not self._stopping:
            timeout = self._next_front - time.monotonic()
            if timeout <= 0:
                self._start_front()
                timeout = None
        wait = [reading] if self._control is None else [reading, self._control]
        ready = select.select(wait, [], [], timeout)[0]
        if reading in ready:
            with suppress(BlockingIOError):
                for number in reading.recv(4096):
                    self._on_signal(number)
        if self._control is not None and self._control in ready:
            self._on_login(self._control)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._fork(self._send_certificate)
        else:
            self._tell_all(signal.SIGKILL if self._stopping else signal.SIGTERM)
            self._stopping = True

    def _tell_all(self, number: int) -> None:
        for pid in (self._front, *self._sessions):
            if pid:
                os.kill(pid, number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, waited = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._sessions.discard(pid)
                if pid == self._front:
                    self._front_ended(os.waitstatus_to_exitcode(waited))

    def _front_ended(self, status: int) -> None:
        self._front = 0
        self._close_control()
        if self._stopping:
            return
        if self._first and time.monotonic() < self._started + START_SECONDS and status in HOPELESS:
            self._status, self._stopping = status, True  # it said why; another try would say the same
            self._tell_all(signal.SIGTERM)
            return
        event(logger, "died", "front", logging.ERROR, status=status, restart_seconds=RESTART_SECONDS)
        self._first = False
        self._next_front = time.monotonic() + RESTART_SECONDS

    def _start_front(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        with theirs:
            self._control = ours
            self._front = self._fork(partial(self._serve_strangers, theirs))
        self._started = time.monotonic()
        self._next_front = self._started + RESTART_SECONDS

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _on_login(self, control: socket.socket) -> None:
        """Start a process for a login, which hears from the front what it is about.

        Were a password ever in this process's memory, all later sessions would inherit it.
        """
        try:
            data, descriptors, flags, _ = socket.recv_fds(control, len(KNOCK), 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors, flags = b"", [], 0
        if not data and not descriptors:  # the front is about to be reaped
            self._close_control()
            return
        full = len(self._sessions) >= self._settings.sessions
        if (
            len(descriptors) == 1
            and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            and not full
            and not self._stopping
        ):
            [call] = descriptors  # perhaps of no socket: that is for the new process to find out
            body = partial(session_process.run, self._settings, self._pam, self._mail_group, call)
            if pid := self._fork(body, call):
                self._sessions.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)

    # In processes of their own

    def _fork(self, body: Callable[[], int], *kept: int) -> int:
        """Run ``body`` in a new process, as root; returns its pid, 0 when there is none to be had.

        With ``kept`` it has no descriptor but these.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            event(logger, "failed", level=logging.ERROR, reason=f"no new process: {error}")
            return 0
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return pid
        status = os.EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _leave_terminal()
            if kept:
                close_all_but(kept)
            status = body()
        except Exit as error:
            status = error.status
            event(logger, "failed", level=logging.ERROR, reason=error.text)
        except BaseException:
            logger.exception("a defect")
        finally:
            os._exit(status)  # nothing of the parent's is unwound here

    def _serve_strangers(self, keeper: socket.socket) -> int:
        settings = self._settings
        tls = load_certificate(settings.tls_cert, settings.tls_key)  # still as root: nobody else may read the key
        if settings.admin_listen:
            expose(make_counters(), FAMILIES, ())  # for nothing, but what that needs is loaded then
        os.chdir("/")
        become(*self._login_user, ())
        end_with_parent()
        close_all_but([keeper.fileno(), *(one.fileno() for one, _ in self._bound)])
        running.run(lambda: Front(settings, tls, keeper), settings.sessions, self._bound)
        return 0

    def _send_certificate(self) -> int:
        """Send the certificate of now to the front; this process ends, so that no session has ever had the key."""
        cert, key = self._settings.tls_cert, self._settings.tls_key
        if cert is None or key is None or self._control is None:
            return 0
        try:
            pems = cert.read_bytes() + b"\0" + key.read_bytes()
            if len(pems) > MAX_PEMS:
                raise Exit(os.EX_CONFIG, f"not reloaded: {cert} and {key} are too large")
            self._control.send(pems)
        except OSError as error:
            raise Exit(os.EX_NOINPUT, f"not reloaded: {error}") from error
        return 0


def _leave_terminal() -> None:
    """Let go of the terminal that root may have started this on: a user's process could type into it."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
