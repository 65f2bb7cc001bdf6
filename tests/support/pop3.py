"""A maildrop in memory, and a driver that carries out at once what a POP3 session asks for."""

import contextlib
from collections.abc import Iterator, Sequence

from services.pop3d.actions import Close, Commit, DigestLogin, FindKeys, Login, Retrieve, ScramLogin, StartTls
from services.pop3d.session import Session
from services.pop3d.stuffing import END, stuff, top
from services.pop3d.terms import Terms
from services.pop3d.verifier import Verifier
from services.pop3d.wire import retrieved
from stubmail.errors import TemporaryError
from stubmail.users import User, Users

NAME, PASSWORD = b"bob", b"open sesame"
VERIFIER = Verifier(Users([User("bob", password="{PLAIN}open sesame", maildrop="mbox:bob")]), b"secret")
BINDING = b"what both sides know of the channel"


class FakeMaildrop:
    """Messages in wire form; ``content`` yields pieces of ``piece`` octets."""

    def __init__(self, messages: Sequence[bytes] = (), piece: int = 7) -> None:
        self.messages = list(messages)
        self.piece = piece
        self.committed: list[int] | None = None
        self.changed = 0  # of those removed, how many another program has changed
        self.closed = False

    @property
    def octets(self) -> Sequence[int]:
        return [len(message) for message in self.messages]

    @property
    def total(self) -> int:
        return sum(self.octets)

    def uid(self, index: int) -> str:
        return f"uid-{index + 1}"

    def content(self, number: int) -> Iterator[bytes]:
        message = self.messages[number - 1]
        return (message[at : at + self.piece] for at in range(0, len(message), self.piece))

    def several(self, first: int, count: int) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(TemporaryError):
            found.extend(b"".join(self.content(number)) for number in range(first, first + count))
        return found

    def older(self, moment: float) -> list[int]:
        return []

    def commit(self, numbers: Sequence[int]) -> int:
        self.committed = list(numbers)
        return self.changed

    def close(self) -> None:
        self.closed = True


class Driver:
    """One session and the world around it: bob's password opens ``maildrop``; challenges count from 1.

    ``together``: asks for many retrievals at a time where there are any.
    """

    def __init__(
        self,
        maildrop: FakeMaildrop | None = None,
        *,
        encrypted: bool = False,
        tls_offered: bool = True,
        plain_allowed: bool = True,
        refusal: tuple[str, str] | None = None,
        commit_works: bool = True,
        disk_full: bool = False,
        terms: Terms | None = None,
        together: bool = False,
    ) -> None:
        self.maildrop = maildrop or FakeMaildrop()
        self._challenges = 0
        self.session = Session(
            terms or Terms(tls_offered=tls_offered, plain_allowed=plain_allowed),
            encrypted=encrypted,
            fresh=self._fresh,
            binding=lambda kind: BINDING if kind == "tls-server-end-point" else b"",
        )
        self.logins: list[Login | DigestLogin | ScramLogin] = []
        self.closed = ""
        self.tls = encrypted
        self._refusal = refusal
        self._commit_works = commit_works
        self._disk_full = disk_full
        self._together = together
        self.several: list[int] = []  # messages of each of the retrievals that were asked for at a time
        self.greeting = self._output()

    def send(self, data: bytes, step: int = 0) -> bytes:
        """Return what the session answers when ``data`` comes whole, or ``step`` octets at a time."""
        pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
        answer = b""
        for piece in pieces:
            self.session.receive(piece)
            answer += self._output()
        return answer

    def log_in(self) -> bytes:
        return self.send(b"USER " + NAME + b"\r\nPASS " + PASSWORD + b"\r\n")

    def _output(self) -> bytes:
        out = self._several()
        while (action := self.session.next()) is not None:
            if isinstance(action, bytes):
                out += action
                continue
            assert not self.closed, f"{action} after the end"
            match action:
                case Login() | DigestLogin() | ScramLogin():
                    self._log_in(action)
                case FindKeys():
                    self.session.keys_found(VERIFIER.keys(action.name))
                case StartTls():
                    self.tls = True
                    self.session.tls_started()
                case Retrieve():
                    content = self.maildrop.content(action.number)
                    whole = content if action.lines is None else top(content, action.lines)
                    out += action.head + b"".join(stuff(whole)) + END + self._several()
                case Commit():
                    if self._commit_works:
                        changed = self.maildrop.commit(sorted({*action.numbers, *action.retrieved}))
                        self.session.committed(len(self.maildrop.committed or ()) - changed, changed)
                    else:
                        self.session.committed(None, full=self._disk_full)
                case Close():
                    self.closed = action.reason
        return out

    def _several(self) -> bytes:
        if not self._together or not (numbers := self.session.retrievals()):
            return b""
        self.several.append(len(numbers))
        messages = (self.maildrop.messages[number - 1] for number in numbers)
        return b"".join(retrieved(len(message)) + b"".join(stuff([message])) + END for message in messages)

    def _fresh(self) -> str:
        self._challenges += 1
        return f"challenge-{self._challenges}"

    def _log_in(self, login: Login | DigestLogin | ScramLogin) -> None:
        self.logins.append(login)
        if VERIFIER.check(login) is None:
            self.session.refuse("AUTH", "Authentication failed")
        elif self._refusal:
            self.session.refuse(*self._refusal)
        else:
            self.session.accept(self.maildrop)
