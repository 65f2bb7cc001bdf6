"""The errors that domain code raises; each edge alone translates them into its protocol's reply."""


def one_line(text: str) -> str:
    """Return ``text`` without what could break a line or command a terminal: texts quote what strangers sent."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text).strip()


class StubmailError(Exception):
    """Something went wrong with one message, request or key.

    ``code`` is an enhanced status code (RFC 3463 §2), for example ``4.4.3``; ``text`` says in one sentence what
    happened and, where the reader can do something about it, what. It is one line of printable characters.
    """

    def __init__(self, code: str, text: str) -> None:
        text = one_line(text)
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class TemporaryError(StubmailError):
    """The same attempt may succeed later: the message stays where it is and is tried again (RFC 3463 class 4)."""


class PermanentError(StubmailError):
    """The same attempt will never succeed: the message is returned or refused (RFC 3463 class 5)."""


class Exit(Exception):
    """A process cannot start or go on: its exit status (sysexits.h, ``os.EX_*``) and one sentence that says why."""

    def __init__(self, status: int, text: str) -> None:
        text = one_line(text)
        super().__init__(text)
        self.status = status
        self.text = text
