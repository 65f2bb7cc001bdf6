"""The operations over HTTP: who may do what, what is answered, and that a refused store leaves nothing."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.chores import EVERY, Chores
from services.post_manager.storage import serials
from services.post_manager.storage.contents import CHUNK
from stubmail.frames import ABSENT, CONTENT, MEDIA_TYPE, WITHDRAWN, FrameReader
from stubmail.request import MAX_HEAD, mac
from tests.support.databases import full_disk
from tests.support.store import HOST, NOW, Person, Store, Talker, code, describe, multipart, read_frames, running_store

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
CAROL = Person("carol@gamma.example")
DAY = 86_400
AT = serials.floor(NOW)


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE], database=database_url) as store:
        yield store


@pytest.fixture
def alice(store: Store) -> Talker:
    return store.talker(ALICE)


@pytest.fixture
def bob(store: Store) -> Talker:
    return store.talker(BOB)


def post(to: Person, head: int = 0, body: int = 1, post_id: bytes | None = None) -> dict[str, Any]:
    """One entry of a store request's ``posts``."""
    post_id = post_id or secrets.token_bytes(16)
    return {"id": post_id.hex(), "to": to.fingerprint, "address": to.address, "head": head, "body": body}


def test_a_post_goes_from_its_sender_to_its_recipient(alice: Talker, bob: Talker) -> None:
    post_id, result = alice.keep(BOB, b"body", b"head")
    assert result == {"id": post_id.hex(), "state": "stored"}
    assert bob.waiting(ALICE) == {
        "posts": [
            {
                "id": post_id.hex(),
                "serial": AT + 1,
                "sender": ALICE.fingerprint,
                "address": ALICE.address,
                "size": 8,
                "time": NOW,
            }
        ],
        "more": False,
        "serial": AT + 1,
        "others": [],
    }
    [(frame, content)] = bob.fetch((post_id, 0))
    assert (frame.id, frame.state, frame.offset, frame.length, content) == (post_id, CONTENT, 0, 8, b"headbody")
    bob.store.clock.now += 10
    assert bob.ack(post_id) == {"acknowledged": 1}
    assert bob.waiting(ALICE)["posts"] == []
    assert alice.outbox() == [
        {
            "id": post_id.hex(),
            "serial": AT + 1,
            "to": BOB.fingerprint,
            "address": BOB.address,
            "size": 8,
            "state": "fetched",
            "stored": NOW,
            "changed": NOW + 10,
            "expires": NOW + 30 * DAY,
        }
    ]


def test_only_accounts_store(bob: Talker) -> None:
    octets = json.dumps(bob.request("store", {"posts": [post(ALICE)]}, [b"h", b"b"])).encode()
    response = bob.store.post(bob.body(octets, [b"h", b"b"]))
    assert (code(response), response.status_code) == ("account", 403)


def test_an_account_is_a_fingerprint_and_an_address(tmp_path: Path) -> None:
    impostor = Person("alice@alpha.example")
    with running_store(tmp_path, [ALICE]) as store:
        response = store.talker(impostor).send("store", {"posts": []})
        assert code(response) == "account"


def test_recipients_share_a_body_and_get_their_own_heads(alice: Talker, bob: Talker) -> None:
    carol = bob.store.talker(CAROL)
    wanted = [post(BOB, 0, 2), post(CAROL, 1, 2)]
    parts = [b"for bob:", b"for carol:", b"the same"]
    results = alice.send("store", {"posts": wanted}, parts).get_json()["results"]
    assert [result["state"] for result in results] == ["stored", "stored"]
    ids = [bytes.fromhex(item["id"]) for item in wanted]
    assert [content for _, content in bob.fetch((ids[0], 0))] == [b"for bob:the same"]
    assert [content for _, content in carol.fetch((ids[1], 0))] == [b"for carol:the same"]
    assert [frame.state for frame, _ in bob.fetch((ids[1], 0))] == [ABSENT]


def test_each_post_of_a_request_has_its_own_result(tmp_path: Path) -> None:
    with running_store(tmp_path, [ALICE], max_post=100, quota_posts=3) as store:
        alice = store.talker(ALICE)
        taken, _ = alice.keep(BOB, b"x")
        wanted = [post(BOB), post(BOB, body=2), post(CAROL, post_id=taken), post(CAROL), post(CAROL)]
        results = alice.send("store", {"posts": wanted}, [b"h", b"b", bytes(100)]).get_json()["results"]
        assert [result["id"] for result in results] == [item["id"] for item in wanted]
        assert [result.get("error", "stored") for result in results] == ["stored", "too-large", "id", "stored", "quota"]
        assert all(result["state"] == ("refused" if "error" in result else "stored") for result in results)
        assert all(result["message"] for result in results if "error" in result)


def test_storing_again_answers_stored(alice: Talker, bob: Talker) -> None:
    post_id, _ = alice.keep(BOB, b"body")
    for _ in range(2):
        _, result = alice.keep(BOB, b"body", post_id=post_id)
        assert result["state"] == "stored"
        bob.ack(post_id)
    assert [sent["state"] for sent in alice.outbox()] == ["fetched"]
    assert bob.store.counters["posts stored"] == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"parts": describe([b"head", b"another body"])},
        {"parts": describe([b"body", b"head"])},
        {"parts": [*describe([b"head"]), {"sha256": hashlib.sha256(b"body").hexdigest(), "size": 5}]},
        {"parts": [*describe([b"head"]), {"sha256": hashlib.sha256(b"body").hexdigest(), "size": 3}]},
    ],
)
def test_a_part_that_lies_about_its_digest_leaves_nothing(alice: Talker, bob: Talker, lie: dict[str, Any]) -> None:
    response = alice.send("store", {"posts": [post(BOB)]}, [b"head", b"body"], **lie)
    assert (code(response), response.status_code) == ("digest", 400)
    assert bob.waiting(ALICE)["serial"] == 0


@pytest.mark.parametrize(
    ("posts", "parts", "expected"),
    [
        ([{"id": "x"}], [b"h", b"b"], "malformed"),
        ([post(BOB, 0, 2)], [b"h", b"b"], "malformed"),
        ([post(BOB, -1, 1)], [b"h", b"b"], "malformed"),
        ([post(BOB)] * 1001, [b"h", b"b"], "malformed"),
        ([post(BOB, post_id=bytes(16)), post(CAROL, post_id=bytes(16))], [b"h", b"b"], "malformed"),
        ([post(BOB)], [bytes(MAX_HEAD + 1), b"b"], "too-large"),
    ],
)
def test_a_store_that_is_not_well_formed_is_refused(
    alice: Talker, posts: list[dict[str, Any]], parts: list[bytes], expected: str
) -> None:
    assert code(alice.send("store", {"posts": posts}, parts)) == expected


def test_parts_of_a_store_must_be_those_announced(alice: Talker) -> None:
    for more in ([("part", b"h")], [("part", b"h"), ("part", b"b"), ("part", b"c")], [("part", b"h"), ("x", b"b")]):
        request = alice.request("store", {"posts": [post(BOB)]}, [b"h", b"b"])
        octets = json.dumps(request).encode()
        proof = mac(bytes.fromhex(alice.session["secret"]), octets)
        assert code(alice.store.post(multipart([("request", octets), ("mac", proof), *more]))) == "malformed"


def test_parts_larger_than_the_body_are_refused_before_they_are_read(alice: Talker) -> None:
    lie = [{"sha256": "0" * 64, "size": 10**9}] * 2
    assert code(alice.send("store", {"posts": [post(BOB)]}, [b"h", b"b"], parts=lie)) == "malformed"


def test_a_store_of_nothing_is_answered(alice: Talker) -> None:
    assert alice.send("store", {"posts": []}).get_json() == {"results": []}


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7])
def test_a_post_is_fetched_from_any_offset(alice: Talker, bob: Talker, size: int) -> None:
    body = (secrets.token_bytes(4096) * (size // 4096 + 1))[:size]
    post_id, _ = alice.keep(BOB, body, b"head")
    whole = b"head" + body
    offsets = {0, 1, 3, 4, 5, CHUNK, CHUNK + 3, CHUNK + 4, CHUNK + 5, len(whole) - 1, len(whole), len(whole) + 9}
    for offset in offsets:
        [(frame, content)] = bob.fetch((post_id, offset))
        begin = min(offset, len(whole))
        assert (frame.offset, frame.length) == (begin, len(whole) - begin)
        assert content == whole[begin:]


def test_many_posts_come_in_the_order_asked_large_and_small(alice: Talker, bob: Talker) -> None:
    sizes = [10, 300_000, 0, CHUNK, 5, *[90_000] * 15, 700_000]
    kept = [(alice.keep(BOB, bytes([number]) * size)[0], size) for number, size in enumerate(sizes)]
    order = [*reversed(kept), *kept]
    answered = bob.fetch(*[(post_id, 0) for post_id, _ in order])
    assert [frame.id for frame, _ in answered] == [post_id for post_id, _ in order]
    assert [len(content) for _, content in answered] == [size + 4 for _, size in order]
    assert len({content for _, content in answered}) == len(sizes)


def test_the_answer_to_a_fetch_comes_in_pieces(alice: Talker, bob: Talker) -> None:
    post_id, _ = alice.keep(BOB, bytes(4_000_000))
    octets = json.dumps(bob.request("fetch", {"posts": [{"id": post_id.hex(), "offset": 0}]})).encode()
    response = bob.store.post(bob.body(octets), buffered=False)
    assert response.content_type == MEDIA_TYPE
    pieces = list(response.response)
    assert max(map(len, pieces)) <= 2 * CHUNK
    assert len(b"".join(pieces)) == 40 + 4_000_004 + 40


def test_unknown_anothers_acknowledged_and_expired_posts_cannot_be_told_apart(alice: Talker, bob: Talker) -> None:
    anothers, acknowledged, withdrawn, expired = (alice.keep(who, b"x")[0] for who in (CAROL, BOB, BOB, BOB))
    bob.ack(acknowledged)
    alice.withdraw(withdrawn)
    alice.store.clock.now += 30 * DAY
    Chores(alice.store.database, alice.store.clock, 90 * DAY).run_due()
    bob.open()
    unknown = secrets.token_bytes(16)
    answered = bob.fetch(*[(post_id, 7) for post_id in (unknown, anothers, acknowledged, withdrawn, expired)])
    states = [frame.state for frame, _ in answered]
    assert states == [ABSENT, ABSENT, ABSENT, WITHDRAWN, ABSENT]
    assert all((frame.offset, frame.length, content) == (0, 0, b"") for frame, content in answered)


def test_a_post_that_goes_while_it_is_sent_breaks_the_answer_off(alice: Talker, bob: Talker) -> None:
    post_id, _ = alice.keep(BOB, bytes(5 * CHUNK))
    octets = json.dumps(bob.request("fetch", {"posts": [{"id": post_id.hex(), "offset": 0}]})).encode()
    response = bob.store.post(bob.body(octets), buffered=False)
    pieces = iter(response.response)
    received = next(pieces)
    bob.ack(post_id)
    with pytest.raises(ConnectionResetError):
        for piece in pieces:
            received += piece
    reader = FrameReader()
    reader.feed(received)
    assert not reader.finished
    assert bob.store.counters["fetch broken off"] == 1


def test_an_ack_of_anothers_post_is_answered_like_any_other(alice: Talker, bob: Talker) -> None:
    post_id, _ = alice.keep(CAROL, b"x")
    assert bob.ack(post_id, secrets.token_bytes(16)) == {"acknowledged": 2}
    assert alice.outbox()[0]["state"] == "waiting"


def test_withdrawing_says_what_was_possible(alice: Talker, bob: Talker) -> None:
    waiting, fetched, gone, again = (alice.keep(BOB, b"x")[0] for _ in range(4))
    bob.ack(fetched)
    alice.withdraw(again)
    unknown = secrets.token_bytes(16)
    assert alice.withdraw(waiting, fetched, again, unknown) == ["withdrawn", "fetched", "withdrawn", "absent"]
    assert bob.withdraw(gone) == ["absent"]
    assert [item["id"] for item in bob.waiting(ALICE)["posts"]] == [gone.hex()]
    assert bob.store.counters["posts withdrawn"] == 2  # not one of them twice


def test_the_outbox_shows_ones_own_posts_in_the_states_asked_for(alice: Talker, bob: Talker) -> None:
    ids = [alice.keep(BOB, b"x")[0] for _ in range(3)]
    bob.ack(ids[1])
    assert [sent["id"] for sent in alice.outbox(states=["waiting"])] == [ids[0].hex(), ids[2].hex()]
    assert [sent["id"] for sent in alice.outbox(states=["fetched", "expired"])] == [ids[1].hex()]
    page = alice.send("outbox", {"after": AT + 1, "limit": 1}).get_json()
    assert ([sent["serial"] for sent in page["posts"]], page["more"]) == ([AT + 2], True)
    assert bob.outbox() == []
    assert code(alice.send("outbox", {"after": 0, "limit": 1, "states": ["lost"]})) == "malformed"


def test_others_are_named_with_how_much_of_theirs_waits(tmp_path: Path) -> None:
    amy = Person("amy@alpha.example")
    with running_store(tmp_path, [ALICE, amy]) as store:
        store.talker(ALICE).keep(BOB, b"x")
        for _ in range(2):
            store.talker(amy).keep(BOB, b"y")
        listing = store.talker(BOB).waiting(ALICE)
        assert [item["sender"] for item in listing["posts"]] == [ALICE.fingerprint]
        assert listing["serial"] == AT + 3
        assert listing["others"] == [{"sender": amy.fingerprint, "address": amy.address, "count": 2}]


def test_posts_expire_and_the_outbox_says_so(alice: Talker, bob: Talker) -> None:
    clock = alice.store.clock
    post_id, _ = alice.keep(BOB, b"x")
    chores = Chores(alice.store.database, clock, 90 * DAY)
    chores.run_due()
    clock.now += 30 * DAY
    chores.run_due()
    alice.open()
    [sent] = alice.outbox()
    assert (sent["state"], sent["changed"]) == ("expired", NOW + 30 * DAY)
    _, result = alice.keep(BOB, b"x", post_id=post_id)
    assert result["state"] == "stored"
    bob.open()
    assert bob.waiting(ALICE)["serial"] == 0
    clock.now += 90 * DAY
    chores.run_due()
    alice.open()
    assert alice.outbox() == []


def test_chores_are_done_by_one_of_many_and_not_too_often(alice: Talker) -> None:
    clock, done = alice.store.clock, []
    workers = [Chores(alice.store.database, clock, DAY) for _ in range(3)]
    for number, worker in enumerate(workers):
        for name in list(worker._tasks):
            worker._tasks[name] = lambda now, pair=(number, name): done.append(pair) or 0
    for _ in range(2):
        for worker in workers:
            worker.run_due()
        assert sorted(name for _, name in done) == ["cookies", "nonces", "posts", "sessions", "tombstones"]
        done.clear()
        for worker in workers:
            worker.run_due()
        assert done == []
        clock.now += EVERY


def test_a_full_disk_is_507_and_heals_by_itself(alice: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(alice.store.section.spool).free

    class Usage:
        free = 100

    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage)
    response = alice.send("store", {"posts": [post(BOB)]}, [b"h", bytes(10_000)])
    assert (code(response), response.status_code) == ("no-space", 507)
    assert alice.outbox() == []
    Usage.free = free
    assert alice.keep(BOB, bytes(10_000))[1]["state"] == "stored"


def test_a_disk_that_fills_up_while_a_post_is_stored_leaves_nothing(alice: Talker, bob: Talker) -> None:
    kept, _ = alice.keep(BOB, b"before")
    with full_disk(alice.store.database):
        response = alice.send("store", {"posts": [post(BOB)]}, [b"h", bytes(2_000_000)])
        assert (code(response), response.status_code) == ("no-space", 507)
        assert [sent["id"] for sent in alice.outbox()] == [kept.hex()]
        bob.ack(kept)
    assert alice.keep(BOB, bytes(2_000_000))[1]["state"] == "stored"


def test_uploads_leave_no_files(alice: Talker) -> None:
    alice.keep(BOB, bytes(3_000_000))
    alice.send("store", {"posts": [post(BOB)]}, [b"h", bytes(3_000_000)], parts=describe([b"h", bytes(3_000_001)]))
    assert list((alice.store.section.spool / "incoming").iterdir()) == []


def test_posts_survive_a_restart(tmp_path: Path) -> None:
    with running_store(tmp_path, [ALICE]) as store:
        post_id, _ = store.talker(ALICE).keep(BOB, b"body", b"head")
        bob = store.talker(BOB)
    with running_store(tmp_path, [ALICE]) as again:
        bob.store = again
        assert [content for _, content in bob.fetch((post_id, 0))] == [b"headbody"]
        _, result = again.talker(ALICE).keep(CAROL, b"another")
        assert result["state"] == "stored"
        assert bob.waiting(ALICE)["serial"] == AT + 1
        assert again.talker(CAROL).waiting(ALICE)["serial"] == AT + 2


def test_a_session_opened_elsewhere_names_the_host(store: Store) -> None:
    assert store.talker(BOB).session["host"] == HOST


def test_an_empty_fetch_is_an_end_frame(bob: Talker) -> None:
    response = bob.send("fetch", {"posts": []})
    assert read_frames(response.data) == []
    assert len(response.data) == 40
