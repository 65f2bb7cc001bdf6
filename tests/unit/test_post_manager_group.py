"""Group commit: many threads, few transactions, each thread its own result or its own error."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from services.post_manager.storage.errors import Conflict, StorageFull
from services.post_manager.storage.group import MOST, Group
from tests.support.waiting import wait_until


class Ledger:
    """A database that only notes which work was committed together."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.current: list[str] = []
        self.calls: list[list[str]] = []
        self.group = Group(self.transaction, self.alone)
        self.first_has_begun, self.go = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        self.current = []
        yield self.current
        self.commits.append(self.current)

    def alone(self, do: Callable[[Any, Sequence[Any]], Sequence[Any]], item: Any) -> Any:
        with self.transaction() as connection:
            return do(connection, [item])[0]

    def each(self, connection: Any, works: Sequence[Callable[[Any], str]]) -> list[str]:
        """Do several pieces of work, all of one kind."""
        return [work(connection) for work in works]

    def other(self, connection: Any, names: Sequence[str]) -> list[str]:
        """Work of another kind, which is done all at once."""
        self.calls.append(list(names))
        connection.extend(names)
        return list(names)

    def first(self, connection: Any) -> str:
        """Work that takes so long that everybody else arrives meanwhile."""
        self.first_has_begun.set()
        assert self.go.wait(30)
        return self.note("first")(connection)

    def note(self, name: str, error: Exception | None = None) -> Callable[[Any], str]:
        def work(connection: Any) -> str:
            if error is not None:
                raise error
            connection.append(name)
            return name

        return work

    def run(self, *others: Callable[[Any], str] | str) -> list[Future[str]]:
        """Run ``others`` in threads that all arrive while ``first`` is at work."""
        with ThreadPoolExecutor(len(others) + 1) as pool:
            futures = [pool.submit(self.group.run, self.each, self.first)]
            assert self.first_has_begun.wait(30)
            for number, work in enumerate(others):
                do = self.other if isinstance(work, str) else self.each
                futures.append(pool.submit(self.group.run, do, work))
                wait_until(lambda expected=number + 1: len(self.group._waiting) >= expected, what="all to arrive")
            self.go.set()
        return futures


def test_who_comes_meanwhile_shares_the_next_transaction() -> None:
    ledger = Ledger()
    futures = ledger.run(*(ledger.note(str(number)) for number in range(5)))
    assert [future.result() for future in futures] == ["first", "0", "1", "2", "3", "4"]
    assert ledger.commits[0] == ["first"]
    assert len(ledger.commits) == 2
    assert sorted(ledger.commits[1]) == ["0", "1", "2", "3", "4"]


def test_work_of_one_kind_is_done_at_once_and_each_gets_its_own_result() -> None:
    ledger = Ledger()
    futures = ledger.run("a", ledger.note("work"), "b", "c")
    assert [future.result() for future in futures] == ["first", "a", "work", "b", "c"]
    assert ledger.calls == [["a", "b", "c"]]
    assert len(ledger.commits) == 2


@pytest.mark.parametrize("error", [StorageFull("no room"), Conflict()])
def test_bad_work_fails_alone(error: Exception) -> None:
    ledger = Ledger()
    futures = ledger.run(ledger.note("a"), ledger.note("bad", error), ledger.note("b"))
    assert [futures[index].result() for index in (0, 1, 3)] == ["first", "a", "b"]
    with pytest.raises(type(error)):
        futures[2].result()
    assert sorted(ledger.commits) == [["a"], ["b"], ["first"]]


def test_a_mistake_of_ours_fails_alone_too() -> None:
    ledger = Ledger()
    futures = ledger.run(ledger.note("bad", KeyError("mistake")), ledger.note("a"), ledger.note("b"))
    with pytest.raises(KeyError):
        futures[1].result()
    assert [futures[index].result() for index in (0, 2, 3)] == ["first", "a", "b"]


def test_a_group_is_bounded() -> None:
    ledger = Ledger()
    names = [str(number) for number in range(MOST + 6)]
    futures = ledger.run(*(ledger.note(name) for name in names))
    assert [future.result() for future in futures] == ["first", *names]
    assert max(map(len, ledger.commits)) == MOST
    assert sorted(chain(*ledger.commits)) == sorted(["first", *names])


def test_one_after_the_other_each_has_its_own() -> None:
    ledger = Ledger()
    assert [ledger.group.run(ledger.each, ledger.note(name)) for name in "abc"] == ["a", "b", "c"]
    assert ledger.commits == [["a"], ["b"], ["c"]]
