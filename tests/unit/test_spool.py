"""Durable files: at every moment the old or the new one is there, whole, and what is written is on disk first."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.spool import clean_temporary, remove_durably, sync_directory, write_durably


class Disk:
    """Watches what write_durably asks of the operating system, and may refuse one of the requests."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.steps: list[str] = []
        self.states: list[dict[str, bytes]] = []
        self.refused = -1
        fsync, replace = os.fsync, Path.replace

        def name(descriptor: int) -> str:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            return "directory" if path == directory else "file"

        monkeypatch.setattr(os, "fsync", lambda fd: self._step(f"fsync {name(fd)}", lambda: fsync(fd)))
        monkeypatch.setattr(Path, "replace", lambda path, to: self._step("rename", lambda: replace(path, to)))

    def _step(self, what: str, do: Callable[[], object]) -> None:
        self._look()
        self.steps.append(what)
        if len(self.steps) - 1 == self.refused:
            raise OSError(28, "No space left on device")
        do()
        self._look()

    def _look(self) -> None:
        self.states.append({path.name: path.read_bytes() for path in self.directory.iterdir()})


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_a_file_is_on_disk_before_it_has_its_name(disk: Disk, tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"new")
    assert disk.steps == ["fsync file", "rename", "fsync directory"]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("old", [None, b"old content"])
def test_at_every_moment_the_old_or_the_new_file_is_there(disk: Disk, tmp_path: Path, old: bytes | None) -> None:
    if old is not None:
        (tmp_path / "a").write_bytes(old)
    write_durably(tmp_path / "a", iter([b"new ", b"content"]))
    seen = [state.get("a") for state in disk.states]
    assert seen[0] == old
    assert seen[-1] == b"new content"
    assert set(seen) == {old, b"new content"}


@pytest.mark.parametrize(("refused", "left"), [(0, b"old"), (1, b"old"), (2, b"new")])
def test_a_failure_leaves_a_whole_file_and_nothing_else(disk: Disk, tmp_path: Path, refused: int, left: bytes) -> None:
    (tmp_path / "a").write_bytes(b"old")
    disk.refused = refused
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": left}


def test_content_that_fails_to_come_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(tmp_path / "a", pieces())
    assert not list(tmp_path.iterdir())


@given(st.binary(max_size=100) | st.lists(st.binary(max_size=20)))
def test_any_content_is_written_as_it_is(tmp_path_factory: pytest.TempPathFactory, data: bytes | list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    write_durably(path, data)
    assert path.read_bytes() == (data if isinstance(data, bytes) else b"".join(data))


def test_nobody_else_may_read_unless_told(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_durably(tmp_path / "a", b"")
        write_durably(tmp_path / "b", b"", mode=0o644)
    finally:
        os.umask(old)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o600, 0o644]


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (tmp_path / "a").is_symlink()


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "no" / "a", b"")


def test_what_is_removed_stays_removed(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    remove_durably(tmp_path / "a")
    remove_durably(tmp_path / "a")
    assert not list(tmp_path.iterdir())
    assert disk.steps == ["fsync directory"] * 2
    assert all("a" not in state for state in disk.states)


def test_what_dead_writers_left_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """As good as SIGKILL: nothing is cleaned up after it."""

    def fsync(_: int) -> None:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", fsync)
        context.setattr(Path, "unlink", lambda *_, **__: None)
        for _ in range(3):
            with pytest.raises(Killed):
                write_durably(tmp_path / "a", b"half")
    (tmp_path / "b").write_bytes(b"whole")
    (tmp_path / "tmp-notes").write_bytes(b"somebody's own")
    assert clean_temporary(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "tmp-notes"]
    assert clean_temporary(tmp_path) == 0


def test_only_a_directory_is_synced_as_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "a")
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    sync_directory(tmp_path)
    assert len(list(descriptors.iterdir())) == before
