"""popcl, run in this process the way users run it."""

from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from commands.popcl.__main__ import main

TIMEOUT = "30"  # seconds of silence that tests put up with


@dataclass(frozen=True)
class Run:
    """What popcl said, and how it ended."""

    status: int
    output: str
    errors: str


class Popcl:
    """popcl with an auth file and a directory of its own: ``out``."""

    def __init__(self, directory: Path, password: str = "open sesame") -> None:
        self.auth = directory / "auth"
        self.auth.write_text(f"username = bob\npassword = {password}\n")
        self.auth.chmod(0o600)
        self.out = directory / "out"

    def arguments(self, port: int, *options: str, host: str = "localhost") -> list[str]:
        """The command line."""
        return [host, "-p", str(port), "-a", str(self.auth), "-o", str(self.out), "--timeout", TIMEOUT, *options]

    def run(self, port: int, *options: str, host: str = "localhost") -> Run:
        """Run it; an exception that is no exit fails the test."""
        result = CliRunner().invoke(main, self.arguments(port, *options, host=host), prog_name="popcl")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Run(result.exit_code, result.stdout, result.stderr)

    def files(self) -> dict[str, bytes]:
        """What is in the directory, hidden files too."""
        return {path.name: path.read_bytes() for path in self.out.iterdir()}
