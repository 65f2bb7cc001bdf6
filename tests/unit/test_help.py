"""--help and --version of every program and each of its subcommands: they need no configuration and no database."""

import os
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

PROGRAMS = ("post_manager", "smtp2stub", "http2mbox", "pop3d", "keyserver", "stubmail", "popcl")


def program(name: str) -> click.Command:
    """What a console script runs."""
    [script] = entry_points(group="console_scripts", name=name)
    found = getattr(import_module(script.module), script.attr)
    assert isinstance(found, click.Command)
    return found


def below(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of a command and of all its subcommands."""
    yield words
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                subcommand = command.get_command(context, name)
                assert subcommand is not None
                yield from below(subcommand, (*words, name))


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_needs_no_configuration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_CONF", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    command = program(name)
    for words in below(command):
        shown = CliRunner().invoke(command, [*words, "--help"], prog_name=name)
        assert shown.exit_code == 0, (words, shown.output)
        assert shown.output.startswith(f"Usage: {name}"), words
    assert CliRunner().invoke(command, ["--version"], prog_name=name).exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_command_line_is_said_before_a_missing_configuration(tmp_path: Path) -> None:
    for words in (["restore"], ["nonsense"], ["accounts", "set", "alice"]):
        shown = CliRunner().invoke(program("post_manager"), ["--config", str(tmp_path / "none"), *words])
        assert (shown.exit_code, "Usage:" in shown.output) == (os.EX_USAGE, True), shown.output
