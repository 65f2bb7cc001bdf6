"""The file with an account's name and password: two lines, ``username = …`` and ``password = …``."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from stubmail.errors import Exit

MAX_FILE = 4_096  # octets
MAX_VALUE = 248  # octets of a name or a password: USER and PASS with their argument are 255 at most, RFC 2449 §4


@dataclass(frozen=True)
class Credentials:
    """Who logs in. The password is not shown."""

    username: str
    password: str = field(repr=False)


def read(path: Path) -> tuple[Credentials, bool]:
    """Return what the file holds, and whether others than its owner may read it.

    Raises Exit: EX_NOINPUT when it cannot be read, EX_CONFIG when it is not in the form.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Exit(os.EX_NOINPUT, f"cannot read the auth file {path}: {error.strerror or error}") from error
    try:
        credentials = parse(content)
    except ValueError as error:
        raise Exit(os.EX_CONFIG, f"{path}: {error}") from error
    return credentials, stat.S_ISREG(mode) and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def parse(content: bytes) -> Credentials:
    """Parse the two lines, in either order; blank lines do not count. Raises ValueError that says what is wrong.

    Spaces around a name do not count. Of a password only one space behind the = does not: the others are part of it.
    """
    if len(content) > MAX_FILE:
        raise ValueError(f"this is no auth file: it has more than {MAX_FILE} octets")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("this is no auth file: it is not UTF-8 text") from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        key, equals, value = line.partition("=")
        key = key.strip(" \t")
        if not equals or key not in ("username", "password"):  # never quoted: it may be a password
            raise ValueError(f"line {number} is neither 'username = NAME' nor 'password = PASSWORD'")
        if key in values:
            raise ValueError(f"line {number} gives the {key} a second time")
        value = value.removeprefix(" ") if key == "password" else value.strip(" \t")
        _check(number, key, value)
        values[key] = value
    for key in ("username", "password"):
        if key not in values:
            raise ValueError(f"the line '{key} = …' is missing")
    return Credentials(values["username"], values["password"])


def _check(number: int, key: str, value: str) -> None:
    """Refuse what cannot be the argument of a command."""
    if not value:
        raise ValueError(f"line {number}: the {key} is empty")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError(f"line {number}: the {key} has a control character in it")
    if len(value.encode()) > MAX_VALUE:
        raise ValueError(f"line {number}: the {key} is over {MAX_VALUE} octets long")
