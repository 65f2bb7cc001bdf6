r"""POP3 dialogs as text files, each a conversation with bob's maildrop; his password is ``open sesame``.

    # a comment
    @ remote            the client is on another machine: passwords need TLS
    @ no certificate    STLS cannot be offered
    @ tls               TLS is on from the start
    @ commit fails      QUIT cannot remove messages
    @ secrets           the password is kept as it is: APOP, CRAM-MD5 and SCRAM; challenges are counted
    @ in use            another session has the maildrop
    @ message           a message in the maildrop; its lines follow, each behind "| "
    | Subject: one
    C: STAT             the client sends a line
    S: +OK 1 14         the server sends exactly this line
    S~ \+OK .*          the server sends a line that this regular expression describes
    * tls               the client has read all and begins TLS here
    * closed            the server hangs up; the last line of the dialog

Escapes as in Python (\xNN, \t, \\) stand for octets; a C line that ends in a backslash is sent without its line end.
The greeting is not part of a dialog.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent.parent / "dialogs" / "pop3"


@dataclass
class Part:
    """What the client sends, in lines, and what it is answered, between two handshakes."""

    lines: list[bytes] = field(default_factory=list)
    answers: list[list[re.Pattern[bytes]]] = field(default_factory=list)  # to each line


@dataclass
class Dialog:
    """One file."""

    name: str
    options: set[str]
    messages: list[bytes]
    parts: list[Part]
    closed: bool


def load_dialogs() -> list[Dialog]:
    """Read all dialogs."""
    return [_parse(path.stem, path.read_text()) for path in sorted(DIRECTORY.glob("*.txt"))]


def check_answer(answer: bytes, expected: list[re.Pattern[bytes]], where: str) -> None:
    """Assert that ``answer`` is the lines that were expected."""
    *lines, rest = answer.split(b"\r\n")
    assert rest == b"", f"{where}: the answer does not end with a line: {answer!r}"
    for at, pattern in enumerate(expected):
        assert at < len(lines), f"{where}: {pattern.pattern!r} is missing; the answer was {answer!r}"
        assert pattern.fullmatch(lines[at]), f"{where}: {lines[at]!r} is not {pattern.pattern!r}"
    assert len(lines) == len(expected), f"{where}: unexpected {lines[len(expected) :]!r}"


def _parse(name: str, text: str) -> Dialog:
    dialog = Dialog(name, set(), [], [Part()], False)
    for number, line in enumerate(text.split("\n"), 1):
        assert not dialog.closed or not line, f"{name}:{number}: nothing may follow the end"
        kind, rest = line[:2], line[3:]
        part = dialog.parts[-1]
        match kind:
            case "" | "# ":
                continue
            case "@ ":
                if line[2:] == "message":
                    dialog.messages.append(b"")
                else:
                    dialog.options.add(line[2:])
            case "| " | "|":
                dialog.messages[-1] += _octets(line[2:]) + b"\r\n"
            case "C:":
                unfinished = rest.endswith("\\") and not rest.endswith("\\\\")
                part.lines.append(_octets(rest.removesuffix("\\")) if unfinished else _octets(rest) + b"\r\n")
                part.answers.append([])
            case "S:":
                part.answers[-1].append(re.compile(re.escape(_octets(rest))))
            case "S~":
                part.answers[-1].append(re.compile(rest.encode()))
            case "* " if line == "* tls":
                dialog.parts.append(Part())
            case "* " if line == "* closed":
                dialog.closed = True
            case _:
                raise AssertionError(f"{name}:{number}: {line!r} is not understood")
    return dialog


def _octets(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")
