"""Unique-ids: unique, the same as long as the message is there, and never given again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.pop3d.uidl import HASH_SIZE, Twins, UidlError, assign, format_uid, pack, remember, unpack

A, B, C = (bytes([octet]) * HASH_SIZE for octet in b"ABC")


def uids(hashes: list[bytes], numbers: dict[int, int]) -> list[str]:
    return [format_uid(one, numbers.get(index, 1)) for index, one in enumerate(hashes)]


def test_without_memory_twins_are_numbered_in_order() -> None:
    numbers, memory = assign([A, B, A, A], {})
    assert numbers == {2: 2, 3: 3}
    assert memory == {}


def test_the_second_twin_keeps_its_number_when_the_first_goes() -> None:
    memory = remember([A, B, A], {2: 2}, [0], {})
    assert memory == {A: Twins((2,), 2)}
    assert assign([B, A], memory) == ({1: 2}, memory)


def test_a_twin_that_comes_later_gets_a_number_that_no_one_had() -> None:
    memory = remember([A, A], {1: 2}, [1], {})
    numbers, memory = assign([A, A], memory)
    assert numbers == {1: 3}
    assert memory == {A: Twins((1, 3), 3)}


def test_the_id_of_a_message_that_has_gone_does_not_come_back() -> None:
    memory = remember([A, B], {}, [0], {})
    assert assign([B, A], memory)[0] == {1: 2}


def test_the_memory_survives_packing() -> None:
    memory = {A: Twins((2, 5), 7), B: Twins((), 1), C: Twins((3,), 3)}
    assert unpack(pack(memory, 1000)) == memory


def test_when_there_is_little_room_messages_that_are_there_come_first_then_the_latest() -> None:
    memory = {A: Twins((), 1), B: Twins((2,), 2), C: Twins((), 1)}
    assert list(unpack(pack(memory, 28 + 24))) == [C, B]
    assert pack(memory, 10) == b""


@given(st.binary(max_size=120))
def test_any_octets_are_a_memory_or_an_error(data: bytes) -> None:
    try:
        memory = unpack(data)
    except UidlError:
        return
    assert unpack(pack(memory, 10_000)) == memory


@pytest.mark.parametrize("present", [(2, 1), (0,), (1, 1), (3,)])
def test_numbers_that_cannot_be_are_refused(present: tuple[int, ...]) -> None:
    with pytest.raises(UidlError):
        unpack(pack({A: Twins(present, 2)}, 100))


class Maildrop(RuleBasedStateMachine):
    """A mailbox that mail comes to and goes from, opened by a session now and then; each message knows its true id."""

    @initialize()
    def begin(self) -> None:
        self.file: list[tuple[bytes, object]] = []  # hash, and what makes a message itself
        self.memory: dict[bytes, Twins] = {}
        self.numbers: dict[int, int] = {}
        self.ids: dict[object, str] = {}
        self.given: set[str] = set()

    @rule(one=st.sampled_from([A, B]))
    def deliver(self, one: bytes) -> None:
        self.file.append((one, object()))
        self.open()

    @rule(data=st.data())
    def quit(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.integers(0, len(self.file) - 1))) if self.file else set()
        self.memory = remember([one for one, _ in self.file], self.numbers, gone, self.memory)
        self.file = [message for index, message in enumerate(self.file) if index not in gone]
        self.open()

    @rule()
    def restart(self) -> None:
        self.memory = unpack(pack(self.memory, 100_000))
        self.open()

    def open(self) -> None:
        self.numbers, self.memory = assign([one for one, _ in self.file], self.memory)

    @invariant()
    def ids_are_unique_stable_and_never_given_again(self) -> None:
        now = uids([one for one, _ in self.file], self.numbers)
        assert len(set(now)) == len(now)
        for (_, message), uid in zip(self.file, now, strict=True):
            if message not in self.ids:
                assert uid not in self.given
                self.ids[message] = uid
                self.given.add(uid)
            assert self.ids[message] == uid
            assert 1 <= len(uid) <= 70


TestMaildrop = Maildrop.TestCase
