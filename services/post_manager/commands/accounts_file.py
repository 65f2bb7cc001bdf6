"""Changes to the accounts file, as a person would make them: comments stay, and only a good file replaces it."""

import contextlib
import fcntl
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from services.post_manager.policy import parse_accounts
from services.post_manager.storage.posts import Terms
from stubmail.errors import Exit
from stubmail.settings import ConfigError
from stubmail.spool import write_durably

NEW_MODE = 0o600  # of a file that was not there; it belongs to the owner of its directory


class AccountsFile:
    """The file at ``path``; ``terms`` are those of accounts about which it does not say.

    Each change is durable when its method returns, and leaves owner and mode of the file. Raises ConfigError when the
    file is not a good one, or would not be one any more, and Exit when there is no such account.
    """

    def __init__(self, path: Path, terms: Terms) -> None:
        self._path = path
        self._terms = terms

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Put an account at the end, of a new file if there is none. Raises Exit when one of that name is there."""
        with self._changing() as document:
            tables: Any = document.setdefault("accounts", tomlkit.table(is_super_table=True))
            if name in tables:
                raise Exit(os.EX_USAGE, f"{self._path} has an account {name} already")
            table = tomlkit.table()
            table.update(values)
            tables[name] = table
            self._replace(tomlkit.dumps(document))

    def set(self, name: str, values: Mapping[str, Any]) -> None:
        """Change what an account's table says; None takes a key out of it."""
        with self._changing() as document:
            table = self._table(document, name)
            for key, value in values.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
            self._replace(tomlkit.dumps(document))

    def remove(self, name: str) -> None:
        """Take an account out."""
        with self._changing() as document:
            self._replace(_without(document, name, self._table(document, name)))

    def missing(self, name: str) -> Exit:
        """Return the error for an account that is not there."""
        return Exit(os.EX_NOUSER, f"{self._path} has no account {name}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[TOMLDocument]:
        """Read the file; nobody else changes it meanwhile. Its directory is locked, since the file is replaced."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield self._read()
        finally:
            os.close(directory)

    def _read(self) -> TOMLDocument:
        try:
            text = self._path.read_text().rstrip("\n") + "\n"
        except FileNotFoundError:
            return tomlkit.document()
        try:
            document = tomlkit.parse(text)
        except (ValueError, tomlkit.exceptions.ParseError) as error:
            raise ConfigError(f"{self._path} is not valid TOML: {error}") from error
        self._judge(text)
        return document

    def _replace(self, text: str) -> None:
        self._judge(text)
        new = not self._path.exists()
        before = (self._path.parent if new else self._path).stat()
        write_durably(self._path, text.encode(), mode=NEW_MODE if new else before.st_mode & 0o777)
        if os.geteuid() != before.st_uid:  # the store has to be able to read it
            os.chown(self._path, before.st_uid, before.st_gid)

    def _judge(self, text: str) -> None:
        parse_accounts(self._path, tomllib.loads(text), self._terms)

    def _table(self, document: TOMLDocument, name: str) -> Any:
        tables: Any = document.get("accounts", {})
        if name not in tables:
            raise self.missing(name)
        return tables[name]


def _without(document: TOMLDocument, name: str, table: Any) -> str:
    """Return the document without a table, but with the comments behind its last key: they are the next one's."""
    body = table.value.body if isinstance(table, tomlkit.items.Table) else []
    own = max((number for number, (key, _) in enumerate(body) if key is not None), default=-1) + 1
    behind = "".join(item.as_string() for _, item in body[own:])
    whole = table.as_string() if body else ""
    text = tomlkit.dumps(document)
    start = text.find(whole) if whole else -1
    header = text.rfind("\n[", 0, start) + 1 if start >= 0 else -1
    if start >= 0 and text[header:start].count("\n") == 1:  # header and body, as one writes it by hand
        return text[:header] + behind.lstrip("\n") + text[start + len(whole) :]
    tables: Any = document["accounts"]
    del tables[name]
    return tomlkit.dumps(document)
