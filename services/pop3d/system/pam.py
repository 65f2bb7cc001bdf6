"""Passwords checked by PAM (pam(3), Linux-PAM's libpam), for a process that may block and be killed meanwhile."""

import ctypes
import os
import secrets
from pathlib import Path

from stubmail.errors import Exit, TemporaryError

LIBRARY = "libpam.so.0"
MAX_PASSWORD = 511  # octets; PAM_MAX_RESP_SIZE is 512 with the NUL
TTY = b"pop3d"  # some modules want one

_SUCCESS, _BUFFER_ERROR, _CONVERSATION_ERROR = 0, 5, 19
_TROUBLE = {1, 2, 3, 4, 5, 9, 19, 26, 28}  # module unusable, system, no memory, no information, conversation, abort
_USER, _TTY, _RHOST = 2, 3, 4  # items
_ECHO_OFF, _ERROR, _INFO = 1, 3, 4  # styles of messages
_SILENT, _NO_EMPTY = 0x8000, 0x0001  # flags
_MAX_MESSAGES = 32


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_CONVERSE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _CONVERSE), ("data", ctypes.c_void_p))


class Pam:
    """libpam for one service, a file in /etc/pam.d. Loads the library: raises Exit when there is none."""

    def __init__(self, service: str) -> None:
        self._service = service.encode()
        try:
            self._pam = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise Exit(os.EX_UNAVAILABLE, f"cannot load {LIBRARY} (package libpam0g): {error}") from error
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = self._libc.strdup.restype = ctypes.c_void_p
        self._libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._libc.strdup.argtypes = (ctypes.c_char_p,)
        self._libc.free.argtypes = (ctypes.c_void_p,)
        self._libc.free.restype = None
        handle = ctypes.c_void_p
        for name, arguments in (
            ("pam_start", (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)),
            ("pam_set_item", (handle, ctypes.c_int, ctypes.c_char_p)),
            ("pam_get_item", (handle, ctypes.c_int, ctypes.c_void_p)),
            ("pam_authenticate", (handle, ctypes.c_int)),
            ("pam_acct_mgmt", (handle, ctypes.c_int)),
            ("pam_end", (handle, ctypes.c_int)),
        ):
            function = getattr(self._pam, name)
            function.argtypes, function.restype = arguments, ctypes.c_int

    def authenticate(self, name: bytes, password: bytes, remote: str) -> bytes | None:
        """Return the user's name, as the modules have it, when the password is right and the account in order.

        None for every refusal: unknown user, wrong password, expired account. ``remote`` is the client's address
        (PAM_RHOST). Modules may block, sleep, start threads and leave descriptors open. Raises TemporaryError when
        PAM could not find out.
        """
        if b"\0" in name + password or len(password) > MAX_PASSWORD:
            password = nobodys()
        conversation = self._conversation(password)
        handle = ctypes.c_void_p()
        status = self._pam.pam_start(
            self._service, name.partition(b"\0")[0], ctypes.byref(conversation), ctypes.byref(handle)
        )
        if status != _SUCCESS:
            raise TemporaryError("4.3.0", f"pam_start failed with status {status}")
        try:
            for item, value in ((_TTY, TTY), (_RHOST, remote.encode())):
                status = status or self._pam.pam_set_item(handle, item, value)
            status = status or self._pam.pam_authenticate(handle, _SILENT | _NO_EMPTY)
            status = status or self._pam.pam_acct_mgmt(handle, _SILENT | _NO_EMPTY)
            if status in _TROUBLE:
                raise TemporaryError("4.3.0", f"PAM failed with status {status} (see security/_pam_types.h)")
            return self._user(handle) if status == _SUCCESS else None
        finally:
            self._pam.pam_end(handle, status)

    def _user(self, handle: ctypes.c_void_p) -> bytes | None:
        value = ctypes.c_char_p()
        if self._pam.pam_get_item(handle, _USER, ctypes.byref(value)) != _SUCCESS:
            return None
        return value.value

    def _conversation(self, password: bytes) -> _Conversation:
        """Return what answers the modules: the password where it is asked for, and nothing to any other question."""

        def converse(count: int, messages: "ctypes._Pointer[ctypes._Pointer[_Message]]", out: object, _: object) -> int:
            if not 0 < count <= _MAX_MESSAGES:
                return _CONVERSATION_ERROR
            styles = [messages[at].contents.style for at in range(count)]
            if not set(styles) <= {_ECHO_OFF, _ERROR, _INFO}:
                return _CONVERSATION_ERROR
            # libpam frees both the array and the texts.
            address = self._libc.calloc(count, ctypes.sizeof(_Response))
            if not address:
                return _BUFFER_ERROR
            responses = ctypes.cast(address, ctypes.POINTER(_Response))
            for at, style in enumerate(styles):
                if style == _ECHO_OFF:
                    responses[at].text = self._libc.strdup(password)
            ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = address  # type: ignore[arg-type]
            return _SUCCESS

        return _Conversation(_CONVERSE(converse), None)


def nobodys() -> bytes:
    """Return a password that no account has: the modules are asked for every name, and take their time to refuse."""
    return secrets.token_hex(32).encode()


def is_configured(service: str) -> bool:
    """Tell whether there is a file for this service; without one ``other`` decides, which should deny."""
    return any(Path(directory, service).is_file() for directory in ("/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d"))
