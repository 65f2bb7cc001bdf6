"""Giving up root for good: groups, gid, uid, then a look whether any way back is left."""

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable, Sequence

from stubmail.errors import Exit

UMASK = 0o077

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


class RootKept(Exit):
    """This process could not give up root, or not for good: it must end before it does anything else."""

    def __init__(self, reason: str) -> None:
        super().__init__(os.EX_OSERR, f"cannot give up root: {reason}")


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Be this user in these groups, root never again: not by a system call, nor by a set-user-ID program.

    ``gid`` is that of new files. Other processes of the user cannot look into this one. Raises RootKept.
    """
    if uid <= 0 or gid <= 0:
        raise RootKept(f"uid {uid} and gid {gid} are root's")
    wanted = sorted({gid, *groups} - {0})
    try:
        os.umask(UMASK)
        os.setgroups(wanted)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise RootKept(str(error)) from error
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or sorted(set(os.getgroups())) != wanted:
        raise RootKept("the user or its groups are not those that were set")
    ways_back: tuple[Callable[[], None], ...] = (
        lambda: os.setresuid(0, 0, 0),
        lambda: os.seteuid(0),
        lambda: os.setresgid(0, 0, 0),
        lambda: os.setgroups([0]),
    )
    for way_back in ways_back:
        try:
            way_back()
        except PermissionError:
            continue
        raise RootKept("it came back")


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies; a change of uid forgets that, so call it afterwards."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor but these, standard input, output and error."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 1 << 20 if most == resource.RLIM_INFINITY else most
    low = 3
    for descriptor in sorted(set(kept) - {0, 1, 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, max(low, most))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise RootKept(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
