"""What all command lines share: the sample, one sentence for each error, and addresses to listen on."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from stubmail import cli
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.settings import ConfigError, Dns, Domain


def run(body: Callable[[], None], *args: str) -> Result:
    """Run a command with the common options around ``body``."""

    @click.command()
    @cli.common_options
    @cli.one_sentence
    def command(config: Path, check: bool, verbose: bool) -> None:
        body()

    return CliRunner().invoke(command, args, prog_name="prog")


@pytest.mark.parametrize("args", [["--nonsense"], ["more"], ["--config"]])
def test_a_wrong_command_line_ends_with_ex_usage(args: list[str]) -> None:
    assert run(lambda: None, *args).exit_code == os.EX_USAGE


def failing(error: BaseException) -> tuple[int, str]:
    """Exit status and standard error of a command that raises this."""

    def body() -> None:
        raise error

    result = run(body)
    assert not result.stdout
    return result.exit_code, result.stderr


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/prog"])


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Exit(os.EX_USAGE, "that cannot be"), os.EX_USAGE, "that cannot be"),
        (ConfigError("no such setting"), os.EX_CONFIG, "no such setting"),
        (TemporaryError("4.4.3", "DNS fails"), os.EX_TEMPFAIL, "DNS fails"),
        (PermanentError("5.1.2", "no such domain"), os.EX_UNAVAILABLE, "no such domain"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), os.EX_NOPERM, "/x: permission denied"),
        (PermissionError(errno.EPERM, "no"), os.EX_NOPERM, "the operation: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), os.EX_OSERR, "/x: No space left on device"),
        (OSError("odd"), os.EX_OSERR, "odd"),
        (TimeoutError(), os.EX_OSERR, "TimeoutError"),
        (OSError(errno.ENOENT, "No such file", b"/x"), os.EX_OSERR, "b'/x': No such file"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(error: BaseException, status: int, text: str) -> None:
    assert failing(error) == (status, f"prog: {text}\n")


def test_a_strangers_text_stays_on_its_line() -> None:
    status, text = failing(TemporaryError("4.3.0", "the store says: no\n\x1b[31mprog: all is well"))
    assert status == os.EX_TEMPFAIL
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert failing(OSError(errno.ENOENT, "gone", "/a\nb\x1b"))[1] == "prog: /a b?: gone\n"


def test_an_interrupt_is_no_traceback() -> None:
    assert failing(KeyboardInterrupt()) == (130, "")


def test_a_reader_that_has_seen_enough_is_no_error_of_ours() -> None:
    status, text = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (status, text) == (1, "")


def test_a_bug_keeps_its_traceback() -> None:
    def body() -> None:
        raise ZeroDivisionError

    assert isinstance(run(body).exception, ZeroDivisionError)


def test_options() -> None:
    seen: list[tuple[Path, bool, bool]] = []

    @click.command()
    @cli.common_options
    def command(config: Path, check: bool, verbose: bool) -> None:
        seen.append((config, check, verbose))

    CliRunner().invoke(command, ["--config", "/c", "--check", "-v"], catch_exceptions=False)
    CliRunner().invoke(command, [], env={"STUB_CONF": "/d"}, catch_exceptions=False)
    assert seen == [(Path("/c"), True, True), (Path("/d"), False, False)]
    assert CliRunner().invoke(command, ["--version"], prog_name="prog").output.startswith("prog ")
    described = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "The configuration file (TOML). [default: ($STUB_CONF, else ~/.stub/stub.conf)]" in described


def test_load_gives_the_sections_in_order(tmp_path: Path) -> None:
    (tmp_path / "stub.conf").write_text('[domain]\nname = "alpha.example"\n[pop3d]\nwhatever = 1\n')
    domain, dns = cli.load(tmp_path / "stub.conf", domain=Domain, dns=Dns)
    assert (domain, dns) == (Domain("alpha.example"), Dns())


def test_a_missing_file_shows_a_sample_that_can_be_read_once_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "stub.conf"
    result = run(lambda: cli.load(path, domain=Domain, dns=Dns) and None)
    assert result.exit_code == os.EX_CONFIG
    assert f"prog: there is no configuration file {path}" in result.stderr
    path.write_text(result.stdout)
    assert run(lambda: cli.load(path, domain=Domain, dns=Dns) and None).exit_code == os.EX_CONFIG, "not filled in"
    path.write_text(result.stdout.replace('name = ""', 'name = "alpha.example"'))
    assert cli.load(path, domain=Domain, dns=Dns) == [Domain("alpha.example"), Dns()]


@pytest.mark.parametrize(
    ("text", "default", "wanted"),
    [
        ("127.0.0.1:25", None, ("127.0.0.1", 25)),
        ("localhost:0", None, ("localhost", 0)),
        ("[::1]:25", None, ("::1", 25)),
        ("[fe80::1%eth0]:25", None, ("fe80::1%eth0", 25)),
        ("127.0.0.1", 110, ("127.0.0.1", 110)),
        ("[::1]", 110, ("::1", 110)),
        ("127.0.0.1:25", 110, ("127.0.0.1", 25)),
        ("127.0.0.1", 0, ("127.0.0.1", 0)),
    ],
)
def test_listen(text: str, default: int | None, wanted: tuple[str, int]) -> None:
    assert cli.parse_listen(text, default) == wanted


@pytest.mark.parametrize(
    "text",
    ["", ":", ":25", "host", "host:", "host:x", "host:-1", "host:65536", "host:1_0", "host:٣", "::1", "::1:25", "[::1]",
     "[::1", "::1]:25", "[]:25", "a b:25", "host:25\n", "host:" + "9" * 5000, "[host]:25"],
)  # fmt: skip
def test_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        cli.parse_listen(text)


@given(st.text(st.characters()), st.none() | st.integers(0, 65535))
def test_any_text_is_an_address_to_listen_on_or_a_config_error(text: str, default: int | None) -> None:
    try:
        host, port = cli.parse_listen(text, default)
    except ConfigError:
        return
    assert host
    assert 0 <= port <= 65535


def test_a_port_in_use_is_told_from_one_that_is_not_allowed() -> None:
    busy = cli.listening_error(OSError(errno.EADDRINUSE, "Address already in use"), "127.0.0.1", 25)
    assert (busy.status, busy.text) == (os.EX_UNAVAILABLE, "cannot listen on 127.0.0.1:25: Address already in use")
    denied = cli.listening_error(PermissionError(errno.EACCES, "Permission denied"), "::", 25)
    assert (denied.status, denied.text) == (os.EX_NOPERM, "cannot listen on [::]:25: Permission denied")
