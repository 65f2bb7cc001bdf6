"""Many messages at once: taken ahead within bounds, answered in order, each judged for itself."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.openpgp import Certificate, Identity, OpenPGPError, Sealed, Unsealed, encrypt, sandbox, sandbox_process
from stubmail.openpgp.unlocked import UnlockedIdentity
from tests.support.keys import NoGnuPG, make_identity, make_key, public
from tests.support.waiting import wait_until

ALICE_KEY, BOB_KEY, CAROL_KEY = make_key(), make_key("Bob <bob@beta.example>"), make_key("Carol <carol@beta.example>")
ALICE, BOB, CAROL = (Certificate.parse(public(key)) for key in (ALICE_KEY, BOB_KEY, CAROL_KEY))
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def alice() -> Iterator[UnlockedIdentity]:
    with make_identity(ALICE_KEY) as alice:
        yield alice


@pytest.fixture
def bob() -> Iterator[UnlockedIdentity]:
    with make_identity(BOB_KEY, NoGnuPG()) as bob:
        yield bob


def by_alice(_handle: str) -> Certificate | None:
    return ALICE


def sealed(message: bytes) -> Sealed:
    return Sealed(message, by_alice)


def outcome(result: Unsealed | OpenPGPError) -> bytes | str:
    return result.reason if isinstance(result, OpenPGPError) else result.data


def outcomes(identity: Identity, messages: list[bytes], limit: int = LIMIT) -> list[bytes | str]:
    return [outcome(result) for result in identity.unseal_all(map(sealed, messages), limit)]


def children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    return set(map(int, path.read_text().split()))


def test_each_message_gets_its_own_verdict_in_order(alice: Identity, bob: Identity) -> None:
    good = [alice.seal(b"%d" % number, [BOB]) for number in range(3)]
    damaged = good[0][:-1] + bytes([good[0][-1] ^ 1])
    messages = [good[0], b"<html>", good[1], encrypt(b"", BOB), damaged, alice.seal(b"", [CAROL]), good[2]]
    expected = [b"0", "malformed", b"1", "unsigned", "malformed", "not-for-us", b"2"]
    assert outcomes(bob, messages) == expected
    assert outcomes(bob, []) == []
    assert outcomes(bob, list(reversed(messages))) == list(reversed(expected))


def test_every_message_is_judged_by_the_certificates_that_it_is_given(alice: Identity, bob: Identity) -> None:
    message = alice.seal(b"text", [BOB])
    givers = [by_alice, by_alice, lambda _: None, by_alice, lambda _: CAROL, lambda _: None, by_alice]
    results = [outcome(result) for result in bob.unseal_all([Sealed(message, giver) for giver in givers], LIMIT)]
    assert results == [b"text", b"text", "unknown-signer", b"text", "malformed", "unknown-signer", b"text"]


def test_a_certificate_that_is_revoked_meanwhile_verifies_no_more(
    alice: Identity, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = bob.unseal_all([sealed(alice.seal(b"%d" % number, [BOB])) for number in range(4)], LIMIT)
    assert [outcome(next(results)) for _ in range(2)] == [b"0", b"1"]
    monkeypatch.setattr(Certificate, "signing_problem", lambda _certificate, _now: "revoked")
    assert outcome(next(results)) == "revoked"
    monkeypatch.undo()
    assert [outcome(result) for result in results] == [b"3"]


def test_no_more_is_taken_ahead_than_the_window_holds(
    alice: Identity, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, taken = alice.seal(bytes(1000), [BOB]), 0
    monkeypatch.setattr(sandbox, "WINDOW", 5 * len(message))

    def messages() -> Iterator[Sealed]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield sealed(message)

    for number, result in enumerate(bob.unseal_all(messages(), LIMIT), 1):
        assert outcome(result) == bytes(1000)
        assert taken <= number + 5  # four further ones with the child, one at hand
    assert number == 20


@pytest.mark.parametrize("size", [100, 300_000, 3 << 20])
def test_sizes_beyond_pipes_and_windows(alice: Identity, bob: Identity, size: int) -> None:
    texts = [os.urandom(size) + b"%d" % number for number in range(4)]
    messages = [alice.seal(text, [BOB]) for text in texts]
    assert outcomes(bob, messages, size + 1) == texts
    assert outcomes(bob, [messages[0], messages[1]], size) == ["malformed", "malformed"]  # as gpg would say it


def test_a_message_that_kills_the_child_is_the_only_one_refused(
    alice: Identity, bob: UnlockedIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The text is beyond what is waited for, so that the child has to be given up over it.
    monkeypatch.setattr(sandbox, "WINDOW", 64 << 20)
    messages = [alice.seal(b"%d" % number, [BOB]) for number in range(9)]
    messages[4] = alice.seal(bytes(LIMIT + 100_000), [BOB])
    expected: list[bytes | str] = [b"%d" % number for number in range(9)]
    expected[4] = "malformed"
    assert outcomes(bob, messages) == expected


def test_a_child_that_hangs_costs_one_message(
    alice: Identity, bob: UnlockedIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [alice.seal(b"%d" % number, [BOB]) for number in range(300)]
    before = children()
    results = bob.unseal_all(map(sealed, messages), LIMIT)
    assert outcome(next(results)) == b"0"
    (child,) = children() - before
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr(sandbox_process, "MESSAGE_TIME", 0.05)
    found = [b"0"]
    while found[-1] != "malformed":  # what it had answered before is there
        found.append(outcome(next(results)))
    monkeypatch.undo()
    found += [outcome(result) for result in results]
    assert [each for each in found if each != "malformed"] == [
        b"%d" % number for number in range(300) if found[number] != "malformed"
    ]
    assert found.count("malformed") == 1


def test_an_iterator_that_is_given_up_leaves_nothing_behind(alice: Identity, bob: UnlockedIdentity) -> None:
    before = children()
    results = bob.unseal_all([sealed(alice.seal(b"%d" % number, [BOB])) for number in range(50)], LIMIT)
    next(results)
    results.close()
    assert children() == before
    assert outcomes(bob, [alice.seal(b"later", [BOB])]) == [b"later"]


def test_an_error_in_the_lookup_comes_through(alice: Identity, bob: UnlockedIdentity) -> None:
    def broken(_handle: str) -> Certificate | None:
        raise LookupError("the keyring is gone")

    message = alice.seal(b"text", [BOB])
    with pytest.raises(LookupError):
        list(bob.unseal_all([sealed(message), Sealed(message, broken)], LIMIT))
    assert outcomes(bob, [message]) == [b"text"]


def test_single_messages_need_not_wait_for_a_stream(alice: Identity, bob: UnlockedIdentity) -> None:
    message = alice.seal(b"text", [BOB])
    before = children()
    results = bob.unseal_all([sealed(message)] * 5, LIMIT)
    next(results)
    assert bob.unseal(message, by_alice, LIMIT).data == b"text"
    assert bob.decrypt(encrypt(b"answer", BOB), LIMIT) == b"answer"
    assert len(list(results)) == 4
    assert len(children() - before) == 1


def test_a_child_that_was_started_ahead_is_the_one_that_is_used(alice: Identity, bob: UnlockedIdentity) -> None:
    before = children()
    bob.prepare()
    bob.prepare()
    (child,) = children() - before
    assert outcomes(bob, [alice.seal(b"text", [BOB])]) == [b"text"]
    bob.prepare()
    assert children() - before == {child}


def test_two_streams_go_on_one_after_the_other(alice: Identity, bob: UnlockedIdentity) -> None:
    messages = [alice.seal(b"%d" % number, [BOB]) for number in range(30)]
    first = bob.unseal_all(map(sealed, messages), LIMIT)
    assert outcome(next(first)) == b"0"
    second: list[bytes | str] = []
    thread = threading.Thread(target=lambda: second.extend(outcomes(bob, messages)))
    thread.start()
    assert [outcome(result) for result in first] == [b"%d" % number for number in range(1, 30)]
    thread.join(30)
    assert second == [b"%d" % number for number in range(30)]


def test_closing_amid_a_stream_lets_it_end(alice: Identity, bob: UnlockedIdentity) -> None:
    before = children()
    results = bob.unseal_all([sealed(alice.seal(b"%d" % number, [BOB])) for number in range(5)], LIMIT)
    next(results)
    bob.close()
    assert [outcome(result) for result in results] == [b"1", b"2", b"3", b"4"]
    assert children() == before


def test_the_child_goes_on_while_its_answers_are_not_fetched(alice: Identity, bob: UnlockedIdentity) -> None:
    before = children()
    results = bob.unseal_all([sealed(alice.seal(b"%d" % number, [BOB])) for number in range(40)], LIMIT)
    next(results)
    (child,) = children() - before
    state = Path(f"/proc/{child}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "S", what="the child's waiting for more")
    os.kill(child, signal.SIGSTOP)
    assert [outcome(result) for result in results] == [b"%d" % number for number in range(1, 40)]
