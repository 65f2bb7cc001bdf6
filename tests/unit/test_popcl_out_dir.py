"""popcl's directory: whole messages under names of their own, nothing overwritten, nothing left behind."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.popcl import out_dir
from commands.popcl.names import variant
from commands.popcl.out_dir import CannotCreate, OutDir
from stubmail.errors import TemporaryError


@pytest.fixture(params=["unnamed", "linked", "renamed"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutDir]:
    """The directory on file systems that know files without names, that know links alone, and that know neither."""
    if request.param != "unnamed":
        monkeypatch.setattr(out_dir, "_PROC", tmp_path / "no-proc")
    if request.param == "renamed":

        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)
    with OutDir(tmp_path / "a" / "out") as opened:
        yield opened
        assert not [name for name in files(opened) if name.startswith(".")]


def files(out: OutDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b"" for path in out._path.iterdir()}


def put(out: OutDir, name: str, content: bytes) -> tuple[str, bool]:
    with out.draft() as draft:
        for at in range(0, len(content), 3):
            draft.write(content[at : at + 3])
        assert (draft.size, draft.digest) == (len(content), hashlib.sha256(content).hexdigest())
        assert name not in files(out) or files(out)[name] != content[:3]
        return out.keep(draft, name)


def test_a_message_gets_its_name_and_is_the_owners_alone(out: OutDir) -> None:
    assert put(out, "1@x", b"content") == ("1@x", True)
    out.sync()
    assert files(out) == {"1@x": b"content"}
    assert stat.S_IMODE((out._path / "1@x").stat().st_mode) == 0o600
    assert stat.S_IMODE(out._path.stat().st_mode) == 0o700


def test_a_message_that_is_not_kept_leaves_nothing(out: OutDir) -> None:
    with out.draft() as draft:
        draft.write(b"half")
    with pytest.raises(KeyboardInterrupt), out.draft() as draft:
        draft.write(b"half")
        raise KeyboardInterrupt
    assert files(out) == {}
    assert out.is_empty


def test_the_same_message_is_there_once_and_another_of_its_name_beside_it(out: OutDir) -> None:
    other = variant("1@x", hashlib.sha256(b"other").hexdigest())
    assert put(out, "1@x", b"content") == ("1@x", True)
    assert put(out, "1@x", b"content") == ("1@x", False)
    assert put(out, "1@x", b"other") == (other, True)
    assert put(out, "1@x", b"other") == (other, False)
    assert files(out) == {"1@x": b"content", other: b"other"}


def test_what_is_no_file_of_a_message_is_never_taken_for_one(out: OutDir) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    (out._path / "target").write_bytes(b"content")
    (out._path / "link").symlink_to("target")
    (out._path / "hole").symlink_to("nowhere")
    (out._path / "directory").mkdir()
    os.mkfifo(out._path / "pipe")
    for name in ("link", "hole", "directory", "pipe"):
        assert out.had(name)
        assert put(out, name, b"content") == (variant(name, digest), True)
    (out._path / "1@x").write_bytes(b"mine")
    (out._path / variant("1@x", digest)).write_bytes(b"mine, too")
    with pytest.raises(TemporaryError, match="in the way"):
        put(out, "1@x", b"content")
    assert (out._path / "1@x").read_bytes() == b"mine"


def test_what_was_there_before_is_told_from_what_came_now(out: OutDir) -> None:
    assert not out.had("1@x")
    put(out, "1@x", b"content")
    assert not out.had("1@x")
    with pytest.raises(TemporaryError, match="another popcl"):
        OutDir(out._path)


def test_a_second_run_knows_what_the_first_has_fetched_and_cleans_up_after_it(tmp_path: Path) -> None:
    with OutDir(tmp_path) as out:
        put(out, "1@x", b"content")
    (tmp_path / ".popcl-0123456789abcdef").write_bytes(b"half")
    (tmp_path / ".popcl-mine").write_bytes(b"mine")
    with OutDir(tmp_path) as out:
        assert out.had("1@x")
        assert sorted(files(out)) == [".popcl-mine", "1@x"]


def test_a_directory_that_cannot_be_made_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(CannotCreate, match="cannot use the directory"):
            OutDir(path)


def test_a_full_disk_is_said_with_the_directory(out: OutDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TemporaryError, match=r"cannot write to .*out: No space left"):
        put(out, "1@x", b"content")
    assert files(out) == {}


def test_a_message_is_on_disk_before_it_has_its_name(out: OutDir, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[str]] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append([name for name in files(out) if not name.startswith(".")])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    put(out, "1@x", b"content")
    out.sync()
    assert synced == [[], ["1@x"]]
