"""No files at all for a process that needs none (landlock(7)), on kernels that can."""

import ctypes
import os
import struct

# The numbers are the same on all architectures.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_VERSION = 1
_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # how many kinds of access to files there are, from each version on
_LIBC = ctypes.CDLL(None, use_errno=True)


def forbid_files() -> bool:
    """Let this thread, and those that it starts, open, make, change or remove no file from here on, whoever owns it.

    What is open stays open; sockets and files without a name are not meant. Returns False on a kernel that cannot. The
    process must have given up new privileges (prctl(2), PR_SET_NO_NEW_PRIVS) or be root's. Raises OSError.
    """
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    if version < 1:
        return False
    rights = (1 << max(bits for least, bits in _RIGHTS.items() if least <= version)) - 1
    attributes = struct.pack("=Q", rights)  # all kinds are handled, and no rule allows any
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return True


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
