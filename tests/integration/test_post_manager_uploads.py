"""Uploads by the client that gateways use, over HTTP: refused in the middle, broken off by a kill, and repeated."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.errors import TemporaryError
from stubmail.http_client import HttpClient
from stubmail.store_answers import Result, StoreRefused
from stubmail.store_client import NewPost, StoreClient
from tests.support.fakes import FakeResolver
from tests.support.keys import make_identity
from tests.support.kill_points import kill_point
from tests.support.store import HOST, Person
from tests.support.store_process import StoreProcess, store_process

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
LIMIT = 50 * 2**20  # octets of a request


@contextlib.contextmanager
def client(store: StoreProcess) -> Iterator[StoreClient]:
    http = HttpClient(FakeResolver())  # type: ignore[arg-type]
    with contextlib.closing(make_identity(ALICE.key)) as identity:
        record = Store(HOST, store.http, "post_manager")
        yield StoreClient(http, record, identity, Address.parse(ALICE.address))


def post(body: bytes) -> NewPost:
    return NewPost(secrets.token_bytes(16), BOB.fingerprint, Address.parse(BOB.address), b"head", body)


def test_an_upload_over_the_limit_is_told_so_every_time(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], max_request=LIMIT, max_post=LIMIT - 2**16) as store, client(store) as alice:
        body = bytes(LIMIT + 2**20)
        for _ in range(5):
            with pytest.raises(StoreRefused) as caught:
                alice.store([post(body)])
            assert caught.value.reason == "too-large"
        good = post(body[: LIMIT - 2**20])
        assert alice.store([good]) == [Result(good.id, "stored")]
        assert [sent.id for sent in alice.outbox().posts] == [good.id]


def test_an_upload_that_a_kill_cut_short_is_repeated_later_in_the_same_session(tmp_path: Path) -> None:
    wanted = post(os.urandom(8_000_000))
    with kill_point(tmp_path) as point, store_process(tmp_path, [ALICE]) as store:
        with client(store) as alice:
            session = alice.session
            point.set("after", "INSERT INTO nonces")
            with pytest.raises(TemporaryError):  # lost, and then nobody there to try again with
                alice.store([wanted])
        store.close()
        point.clear()
        store.start()
        with client(store) as alice:
            alice._session = session
            assert alice.outbox().posts == ()
            assert alice.store([wanted]) == [Result(wanted.id, "stored")]
            assert alice.session is session
        bob = store.talker(BOB)
        [(_, content)] = bob.fetch((wanted.id, 0))
        assert content == wanted.head + wanted.body
