"""A crash at every system call of a delivery or a removal: each message is there once, octet for octet, or will be."""

import dataclasses
import errno
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stubmail.mbox import Delivery, Mbox, MboxError, NoRoom, disk, rewrite, rewrite_journal
from stubmail.mbox.plan import Plan
from tests.support.graveyard import Graveyard
from tests.support.power import Crash, Machine

OLD = b"Subject: old\r\n\r\n>From the start.\r\n"
INITIAL = {
    "absent": None,
    "empty": b"",
    "complete": b"From carol@c.example Thu Jan  1 00:00:00 1970\nSubject: old\n\n>>From the start.\n\n",
    "unfinished": b"From carol@c.example Thu Jan  1 00:00:00 1970\nSubject: old\n\n>>From the start.",
    "crlf": b"From carol@c.example Thu Jan  1 00:00:00 1970\r\nSubject: old\r\n\r\n>>From the start.\r\n\r\n",
}
OURS = {
    "id-1": b"Subject: one\r\n\r\nI come From afar.\r\nFrom here on\r\n",
    "id-2": b"Subject: two\r\n\r\n" + b"The words From and >From in the text.\r\n" * 12 + b"\r\n",
    "id-3": b"Subject: one\r\n\r\nI come From afar.\r\nFrom here on\r\n\r\nand more\r\n",
}
# The legacy program's mail begins like the first of ours, to the second, and goes on otherwise.
LEGACY_STORED = b"From alice@a.example Thu Jan  1 00:00:00 1970\nSubject: one\n\nI come From a shop.\n\n"
LEGACY = b"Subject: one\r\n\r\nI come From a shop.\r\n"
BATCH = [Delivery(name, "alice@a.example", 0, content) for name, content in OURS.items()]


@pytest.fixture(autouse=True)
def _many_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "PIECE", 200)
    monkeypatch.setattr(rewrite, "WINDOW", 300)


@pytest.fixture
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows, each in one piece: for tests that take the square of the steps."""
    monkeypatch.setattr(disk, "PIECE", 600)
    monkeypatch.setattr(rewrite, "WINDOW", 600)


class Place:
    """One try: a fresh directory with a mailbox, and what the puller has recorded."""

    def __init__(self, directory: Path, stored: bytes | None) -> None:
        directory.mkdir()
        self.directory = directory
        self.path = directory / "bob"
        self.recorded: set[str] = set()
        if stored is not None:
            self.path.write_bytes(stored)

    def mbox(self, owner: str = "puller") -> Mbox:
        return Mbox(self.path, lock_timeout=0, owner=owner)

    def legacy_append(self, kind: str, graveyard: Graveyard | None = None) -> list[bytes]:
        """Append as another program does, and return what should be there then; a careful one ends the last line."""
        if kind == "none" or not self.path.exists():
            return []
        stored = self.path.read_bytes()
        end = b""
        if kind == "careful" and stored and not stored.endswith((b"\n\n", b"\n\r\n")):
            end = b"\n" if stored.endswith(b"\n") else b"\n\n"
        with self.path.open("ab") as file:
            file.write(end + LEGACY_STORED)
        if graveyard:  # it has called fsync, too
            inode = self.path.stat().st_ino
            graveyard.wrote(inode, len(stored), end + LEGACY_STORED)
            graveyard.kept(inode)
        return [LEGACY]

    def wait(self) -> None:
        """Let an empty dotlock, all that a full disk has room for, be old enough to be taken for left behind."""
        lock = self.directory / "bob.lock"
        if lock.exists() and not lock.stat().st_size:
            os.utime(lock, (1, 1))

    def contents(self) -> list[bytes]:
        self.wait()
        with Machine():
            snapshot = self.mbox("reader").snapshot()
        found = [b"".join(snapshot.chunks(index)) for index in range(len(snapshot))]
        assert [snapshot.octets(index) for index in range(len(snapshot))] == list(map(len, found))
        return found

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


def until_it_lives(tmp_path: Path, attempt: Callable[[Path, int], bool]) -> int:
    """Call attempt with fresh paths and 1, 2, 3 … until it says that its machine lived; return the last number."""
    for number in range(1, 1000):
        if attempt(tmp_path / str(number), number):
            return number
    raise AssertionError("it never ended")


def deliver(place: Place, machine: Machine) -> bool:
    """Deliver the batch on a machine that may die, and say whether it lived."""

    def record(ids: Sequence[str]) -> None:
        machine.step("before the ids are recorded")
        place.recorded.update(ids)
        machine.step("after the ids are recorded")

    try:
        with machine:
            place.mbox().recover(record)
            place.mbox().deliver([message for message in BATCH if message.id not in place.recorded], record)
    except Crash:
        return False
    return True


def check_delivered(place: Place, before: list[bytes]) -> None:
    assert sorted(place.contents()) == sorted([*before, *OURS.values()])
    assert place.recorded == set(OURS)
    assert place.files() == {"bob"}


def old(initial: str) -> list[bytes]:
    return [OLD] if INITIAL[initial] else []


@pytest.mark.parametrize("torn", [None, 0.5, 0.98])
@pytest.mark.parametrize("legacy", ["none", "careful", "careless"])
@pytest.mark.parametrize("reader", [False, True])
@pytest.mark.parametrize("initial", INITIAL)
def test_delivery_killed_at_every_call(
    tmp_path: Path, initial: str, reader: bool, legacy: str, torn: float | None
) -> None:
    if initial == "unfinished" and legacy == "careless":
        return  # that would spoil the last line without us, too

    def attempt(directory: Path, number: int) -> bool:
        place = Place(directory, INITIAL[initial])
        lived = deliver(place, Machine(stop_at=number, torn=torn))
        before = old(initial) + place.legacy_append(legacy)
        if reader:  # a POP3 session comes before the puller: all of the batch, or nothing
            there = place.contents()
            assert sorted(there) in (sorted(before), sorted([*before, *OURS.values()]))
            assert not place.recorded or len(there) == len(before) + len(OURS)
        assert deliver(place, Machine())
        check_delivered(place, before)
        return lived

    assert until_it_lives(tmp_path, attempt) > 20


@pytest.mark.parametrize("legacy", ["none", "careful"])
@pytest.mark.parametrize("torn", [0.5])
def test_delivery_killed_and_healing_killed_as_well(tmp_path: Path, legacy: str, torn: float | None) -> None:
    def attempt(directory: Path, number: int) -> bool:
        lived = []

        def again(inner: Path, inner_number: int) -> bool:
            place = Place(inner, INITIAL["unfinished"])
            lived.append(deliver(place, Machine(stop_at=number, torn=torn)))
            before = old("unfinished") + place.legacy_append(legacy)
            healed = deliver(place, Machine(stop_at=inner_number, torn=torn))
            before += place.legacy_append(legacy)
            assert deliver(place, Machine())
            check_delivered(place, before)
            return healed

        directory.mkdir()
        until_it_lives(directory, again)
        return lived[-1]

    assert until_it_lives(tmp_path, attempt) > 20


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("initial", INITIAL)
def test_delivery_when_the_power_fails_at_every_call(tmp_path: Path, initial: str, seed: int) -> None:
    def attempt(directory: Path, number: int) -> bool:
        place = Place(directory, INITIAL[initial])
        graveyard = Graveyard(place.directory)
        lived = deliver(place, Machine(stop_at=number, disk=graveyard))
        graveyard.lose(random.Random(seed * 1000 + number))
        assert not lived or "bob.stub-append" not in place.files()
        if lived or place.recorded:
            assert sorted(place.contents()) == sorted([*old(initial), *OURS.values()])
        assert deliver(place, Machine())
        check_delivered(place, old(initial))
        return lived

    assert until_it_lives(tmp_path, attempt) > 20


@pytest.mark.parametrize("legacy", ["none", "careful"])
def test_delivery_killed_and_the_power_fails_while_healing(tmp_path: Path, legacy: str) -> None:
    def attempt(directory: Path, number: int) -> bool:
        lived = []

        def again(inner: Path, inner_number: int) -> bool:
            chance = random.Random(number * 1000 + inner_number)
            place = Place(inner, INITIAL["complete"])
            graveyard = Graveyard(place.directory)
            lived.append(deliver(place, Machine(stop_at=number, torn=chance.random(), disk=graveyard)))
            before = old("complete") + place.legacy_append(legacy, graveyard)
            healed = deliver(place, Machine(stop_at=inner_number, disk=graveyard))
            graveyard.lose(chance)
            assert deliver(place, Machine())
            check_delivered(place, before)
            return healed

        directory.mkdir()
        until_it_lives(directory, again)
        return lived[-1]

    assert until_it_lives(tmp_path, attempt) > 20


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("initial", ["absent", "unfinished"])
def test_delivery_when_one_call_fails(tmp_path: Path, initial: str, error: int) -> None:
    """The disk is full, or broken, for one call: the mailbox is as it was, and the next try delivers."""

    def attempt(directory: Path, number: int) -> bool:
        place = Place(directory, INITIAL[initial])
        lived = True
        try:
            deliver(place, Machine(fail_at=number, error=error))
        except MboxError as failure:
            lived = False
            assert failure.code == ("4.3.1" if error == errno.ENOSPC else "4.3.0")
            if place.path.exists() and not place.recorded:
                assert place.path.read_bytes() == (INITIAL[initial] or b"")
        except OSError:  # what the puller's own record raised
            lived = False
        assert deliver(place, Machine())
        check_delivered(place, old(initial))
        return lived and number > 40

    until_it_lives(tmp_path, attempt)


MESSAGES = [
    b"Subject: 0\r\n\r\nstays\r\n",
    b"Subject: 1\r\n\r\ngoes\r\n",
    b"Subject: twin\r\n\r\nFrom two\r\n",
    b"Subject: twin\r\n\r\nFrom two\r\n",
    b"Subject: 4\r\n\r\n" + b"stays and is long\r\n" * 40,
    b"Subject: 5\r\n\r\n" + b"goes and is long\r\n" * 60,
    b"",
    b"Subject: 7\r\n\r\nstays",
]
REMOVALS = {
    "some": [1, 3, 5],
    "first": [0],
    "last": [7],
    "empty one": [6],
    "all": list(range(8)),
    "all but the last": list(range(7)),
    "long one": [4],
}


def filled(directory: Path) -> tuple[Place, list[bytes]]:
    """A mailbox with MESSAGES, the last of them without its end, and what is to be read from it."""
    place = Place(directory, b"\r\n")
    with Machine():
        place.mbox().deliver([Delivery(str(number), "a@a.example", 0, m) for number, m in enumerate(MESSAGES)])
    place.path.write_bytes(place.path.read_bytes().removesuffix(b"\n\n"))
    return place, [*MESSAGES[:-1], MESSAGES[-1] + b"\r\n"]


def remove(place: Place, numbers: list[int], machine: Machine) -> bool:
    with Machine():
        snapshot = place.mbox("reader").snapshot()
    try:
        with machine:
            assert place.mbox("reader").remove(snapshot, numbers).removed == len(numbers)
    except Crash:
        return False
    return True


def look(place: Place, machine: Machine) -> bool:
    """Open the mailbox on a machine that may die, and say whether it lived."""
    try:
        with machine:
            place.mbox("reader").snapshot()
    except Crash:
        return False
    return True


def without(messages: list[bytes], numbers: list[int]) -> list[bytes]:
    return [message for number, message in enumerate(messages) if number not in numbers]


@pytest.mark.parametrize("torn", [None, 0.3, 0.98])
@pytest.mark.parametrize("legacy", ["none", "careful"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_removal_killed_at_every_call(tmp_path: Path, removal: str, legacy: str, torn: float | None) -> None:
    numbers = REMOVALS[removal]

    def attempt(directory: Path, number: int) -> bool:
        place, whole = filled(directory)
        status = place.path.stat()
        lived = remove(place, numbers, Machine(stop_at=number, torn=torn))
        late = place.legacy_append(legacy)
        there = place.contents()
        assert there in ([*without(whole, numbers), *late], [*whole, *late][: 99 if not lived else 0])
        assert place.files() == {"bob"}
        assert (place.path.stat().st_ino, place.path.stat().st_mode) == (status.st_ino, status.st_mode)
        return lived

    assert until_it_lives(tmp_path, attempt) > 10


def test_a_journal_whose_plan_says_less_than_ours_do_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before kept no ``direct`` in it."""

    def format_before(plan: Plan) -> bytes:
        fields = dataclasses.asdict(plan)
        del fields["direct"]
        return json.dumps(fields).encode()

    def attempt(directory: Path, number: int) -> bool:
        place, whole = filled(directory)
        with monkeypatch.context() as patch:
            patch.setattr(Plan, "format", format_before)
            lived = remove(place, REMOVALS["some"], Machine(stop_at=number))
        assert place.contents() in (without(whole, REMOVALS["some"]), whole)
        return lived

    assert until_it_lives(tmp_path, attempt) > 20


@pytest.mark.usefixtures("fewer_steps")
@pytest.mark.parametrize("removal", ["some", "last"])
@pytest.mark.parametrize("torn", [0.5])
def test_removal_killed_and_healing_killed_as_well(tmp_path: Path, removal: str, torn: float | None) -> None:
    numbers = REMOVALS[removal]

    def attempt(directory: Path, number: int) -> bool:
        lived = []

        def again(inner: Path, inner_number: int) -> bool:
            place, whole = filled(inner)
            lived.append(remove(place, numbers, Machine(stop_at=number, torn=torn)))
            late = place.legacy_append("careful")
            healed = look(place, Machine(stop_at=inner_number, torn=torn))
            late += place.legacy_append("careful")
            assert place.contents() in ([*without(whole, numbers), *late], [*whole, *late])
            assert place.files() == {"bob"}
            return healed

        directory.mkdir()
        until_it_lives(directory, again)
        return lived[-1]

    assert until_it_lives(tmp_path, attempt) > 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("removal", REMOVALS)
def test_removal_when_the_power_fails_at_every_call(tmp_path: Path, removal: str, seed: int) -> None:
    numbers = REMOVALS[removal]

    def attempt(directory: Path, number: int) -> bool:
        place, whole = filled(directory)
        graveyard = Graveyard(place.directory)
        lived = remove(place, numbers, Machine(stop_at=number, disk=graveyard))
        graveyard.lose(random.Random(seed * 1000 + number))
        assert not lived or "bob.stub-rewrite" not in place.files()
        there = place.contents()
        assert there == without(whole, numbers) or (there == whole and not lived)
        assert place.files() == {"bob"}
        return lived

    assert until_it_lives(tmp_path, attempt) > 10


def kill_and_fail_while_healing(tmp_path: Path, numbers: list[int], legacy: str, room: int | None = None) -> int:
    """Kill a removal at every call, and let the power fail at every call of the next opener's; return how many."""

    def attempt(directory: Path, number: int) -> bool:
        lived = []

        def again(inner: Path, inner_number: int) -> bool:
            chance = random.Random(number * 1000 + inner_number)
            place, whole = filled(inner)
            graveyard = Graveyard(place.directory)
            dying = Machine(stop_at=number, torn=chance.random(), disk=graveyard, room=room)
            lived.append(remove(place, numbers, dying))
            late = place.legacy_append(legacy, graveyard)
            if room is not None:
                place.wait()
            healed = look(place, Machine(stop_at=inner_number, disk=graveyard))
            graveyard.lose(chance)
            assert place.contents() in ([*without(whole, numbers), *late], [*whole, *late])
            assert place.files() == {"bob"}
            return healed

        directory.mkdir()
        until_it_lives(directory, again)
        return lived[-1]

    return until_it_lives(tmp_path, attempt)


@pytest.mark.usefixtures("fewer_steps")
@pytest.mark.parametrize("legacy", ["none", "careful"])
def test_removal_killed_and_the_power_fails_while_healing(tmp_path: Path, legacy: str) -> None:
    assert kill_and_fail_while_healing(tmp_path, REMOVALS["some"], legacy) > 10


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("removal", REMOVALS)
def test_removal_when_one_call_fails(tmp_path: Path, removal: str, error: int) -> None:
    numbers = REMOVALS[removal]

    def attempt(directory: Path, number: int) -> bool:
        place, whole = filled(directory)
        machine = Machine(fail_at=number, error=error)
        failed = False
        try:
            remove(place, numbers, machine)
        except MboxError:
            failed = True
        there = place.contents()
        assert there == without(whole, numbers) or (failed and there == whole)
        if failed and not {"pwrite bob", "ftruncate bob"} & set(machine.names):
            assert there == whole
        assert place.files() == {"bob"}
        return number > 40

    until_it_lives(tmp_path, attempt)


@pytest.mark.usefixtures("fewer_steps")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("removal", ["last", "all"])
def test_a_cut_killed_before_it_is_on_disk_and_the_power_fails_while_new_mail_is_delivered(
    tmp_path: Path, removal: str, seed: int
) -> None:
    """What was cut off may come back with the power, but not behind a part of the new mail."""
    machine = Machine()
    assert remove(filled(tmp_path / "first")[0], REMOVALS[removal], machine)
    killed = machine.names.index("ftruncate bob") + 2

    def attempt(directory: Path, number: int) -> bool:
        chance = random.Random(seed * 1000 + number)
        place, whole = filled(directory)
        graveyard = Graveyard(place.directory)
        assert not remove(place, REMOVALS[removal], Machine(stop_at=killed, disk=graveyard))
        lived = deliver(place, Machine(stop_at=number, disk=graveyard))
        graveyard.lose(chance)
        assert deliver(place, Machine())
        assert place.contents() in ([*without(whole, REMOVALS[removal]), *OURS.values()], [*whole, *OURS.values()])
        return lived

    assert until_it_lives(tmp_path, attempt) > 20


STEPS = {"small": 800, "direct": 450}  # with so much room windows are small, or no longer than what goes


class TestLittleRoom:
    """The disk has not the room that a rewrite would like to take."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rewrite_journal, "LEAST", 40)

    @pytest.mark.parametrize("torn", [None, 0.3])
    @pytest.mark.parametrize("legacy", ["none", "careful"])
    @pytest.mark.parametrize("removal", ["some", "long one"])
    @pytest.mark.parametrize("room", STEPS.values(), ids=STEPS)
    def test_smaller_steps_killed_at_every_call(
        self, tmp_path: Path, room: int, removal: str, legacy: str, torn: float | None
    ) -> None:
        numbers = REMOVALS[removal]

        def attempt(directory: Path, number: int) -> bool:
            place, whole = filled(directory)
            machine = Machine(stop_at=number, torn=torn, room=room)
            lived = remove(place, numbers, machine)
            late = place.legacy_append(legacy)
            assert place.contents() in ([*without(whole, numbers), *late], [*whole, *late])
            assert place.files() == {"bob"}
            if lived:
                assert machine.names.count("fallocate bob.stub-rewrite") > 1
            return lived

        assert until_it_lives(tmp_path, attempt) > 20

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("removal", ["some", "long one"])
    @pytest.mark.parametrize("room", STEPS.values(), ids=STEPS)
    def test_smaller_steps_when_the_power_fails_at_every_call(
        self, tmp_path: Path, room: int, removal: str, seed: int
    ) -> None:
        numbers = REMOVALS[removal]

        def attempt(directory: Path, number: int) -> bool:
            place, whole = filled(directory)
            graveyard = Graveyard(place.directory)
            lived = remove(place, numbers, Machine(stop_at=number, disk=graveyard, room=room))
            graveyard.lose(random.Random(seed * 1000 + number))
            there = place.contents()
            assert there == without(whole, numbers) or (there == whole and not lived)
            assert place.files() == {"bob"}
            return lived

        assert until_it_lives(tmp_path, attempt) > 20

    @pytest.mark.usefixtures("fewer_steps")
    @pytest.mark.parametrize("legacy", ["none", "careful"])
    def test_smaller_steps_killed_and_the_power_fails_while_healing(self, tmp_path: Path, legacy: str) -> None:
        assert kill_and_fail_while_healing(tmp_path, REMOVALS["long one"], legacy, STEPS["direct"]) > 10

    @pytest.mark.parametrize("power", [False, True])
    def test_what_goes_at_the_end_makes_room_for_the_rest(self, tmp_path: Path, power: bool) -> None:
        numbers = [1, 3, 5, 6, 7]

        def attempt(directory: Path, number: int) -> bool:
            place, whole = filled(directory)
            graveyard = Graveyard(place.directory) if power else None
            lived = remove(place, numbers, Machine(stop_at=number, disk=graveyard, room=0))
            if graveyard:
                graveyard.lose(random.Random(number))
            there = place.contents()
            assert there == without(whole, numbers) or (there in (whole, whole[:5]) and not lived)
            assert place.files() == {"bob"}
            return lived

        assert until_it_lives(tmp_path, attempt) > 20

    @pytest.mark.parametrize("removal", REMOVALS)
    def test_no_room_at_all_loses_nothing(self, tmp_path: Path, removal: str) -> None:
        place, whole = filled(tmp_path / "place")
        numbers = REMOVALS[removal]
        if removal in ("last", "all"):
            assert remove(place, numbers, Machine(room=0))
            assert place.contents() == without(whole, numbers)
        else:
            with pytest.raises(NoRoom):
                remove(place, numbers, Machine(room=0))
            assert place.contents() == whole
        assert place.files() == {"bob"}

    @pytest.mark.parametrize("power", [False, True])
    def test_a_delivery_that_was_not_recorded_is_noted_without_room(self, tmp_path: Path, power: bool) -> None:
        machine = Machine()
        assert deliver(Place(tmp_path / "first", INITIAL["complete"]), machine)
        unrecorded = machine.names.index("before the ids are recorded") + 1

        def attempt(directory: Path, number: int) -> bool:
            place = Place(directory, INITIAL["complete"])
            graveyard = Graveyard(place.directory) if power else None
            assert not deliver(place, Machine(stop_at=unrecorded, disk=graveyard))
            lived = look(place, Machine(stop_at=number, disk=graveyard, room=0))
            assert not lived or place.files() == {"bob", "bob.stub-appended-puller"}
            if graveyard:
                graveyard.lose(random.Random(number))
            place.wait()
            assert deliver(place, Machine())
            check_delivered(place, [OLD])
            return lived

        assert until_it_lives(tmp_path, attempt) > 10

    def test_late_mail_is_moved_without_more_room(self, tmp_path: Path) -> None:
        """What the journal has reserved for windows will do for that."""

        def attempt(directory: Path, number: int) -> bool:
            place, whole = filled(directory)
            lived = remove(place, REMOVALS["some"], Machine(stop_at=number))
            late = place.legacy_append("careful")
            with Machine(room=0):
                place.mbox("reader").snapshot()
            assert place.contents() in ([*without(whole, REMOVALS["some"]), *late], [*whole, *late])
            return lived

        assert until_it_lives(tmp_path, attempt) > 20

    def test_a_file_system_that_copies_what_is_overwritten_is_found_out_in_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, whole = filled(tmp_path / "place")
        inode, before = place.path.stat().st_ino, place.path.read_bytes()
        write = os.pwrite

        def full(fd: int, data: bytes, offset: int) -> int:
            if os.fstat(fd).st_ino == inode:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(NoRoom):
            remove(place, REMOVALS["some"], Machine(room=700))
        assert place.files() == {"bob"}
        assert (place.path.read_bytes(), place.contents()) == (before, whole)
