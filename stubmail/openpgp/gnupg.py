"""GnuPG as an engine: one gpg process a call, with bounded time, its status lines read safely.

Trust decisions never rest on a wrapper's reading of the status lines: user IDs stand in them, and whoever splits lines
at more than the line feed lets a user ID forge a status.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stubmail.errors import Exit, TemporaryError
from stubmail.openpgp.errors import OpenPGPError

PROGRAM = "gpg"
TIMEOUT = 60.0  # seconds for one gpg process: the user may have to find his card

# What gpg.conf may say for the user's own work and must not say for ours.
OPTIONS = (
    *("--batch", "--no-tty", "--quiet", "--yes", "--no-armor", "--no-textmode", "--no-encrypt-to"),
    *("--no-auto-key-locate", "--no-auto-key-retrieve", "--no-auto-check-trustdb", "--trust-model", "always"),
    *("--weak-digest", "SHA1", "--weak-digest", "RIPEMD160"),
)
_BAD_PASSPHRASE = 11  # GPG_ERR_BAD_PASSPHRASE


@dataclass(frozen=True, slots=True)
class Result:
    """What one gpg process left: exit status, standard output, status lines as keyword and arguments."""

    code: int
    output: bytes
    status: tuple[tuple[str, list[str]], ...]

    def lines(self, *keywords: str) -> list[list[str]]:
        """Return the arguments of every status line with one of these keywords."""
        return [arguments for keyword, arguments in self.status if keyword in keywords]


class GnuPG:
    """The gpg program on one home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, data: bytes = b"", passphrase: str | None = None) -> Result:
        """Run gpg with ``data`` on standard input; a passphrase goes to it by a pipe, never by the command line.

        Raises TemporaryError when it does not finish within TIMEOUT, Exit when it is not installed.
        """
        with ExitStack() as stack:
            status = os.memfd_create("status")
            stack.callback(os.close, status)
            command = [PROGRAM, "--homedir", str(self.home), *OPTIONS, "--status-fd", str(status)]
            descriptors = [status]
            if passphrase is not None:
                descriptors.append(stack.enter_context(_passphrase(passphrase)))
                command += ["--pinentry-mode", "loopback", "--passphrase-fd", str(descriptors[-1])]
            try:
                done = subprocess.run(
                    [*command, *arguments], input=data, capture_output=True, pass_fds=descriptors, timeout=TIMEOUT
                )
            except subprocess.TimeoutExpired as error:
                raise TemporaryError("4.3.0", f"gpg did not finish within {TIMEOUT:.0f} seconds") from error
            except FileNotFoundError as error:
                raise missing() from error
            return Result(done.returncode, done.stdout, _parse_status(_contents(status)))

    def unwrap(self, message: bytes, fingerprint: str, passphrase: str | None) -> bytes:
        """Take the encryption off a message and return the packets inside: compressed, signed, as they are.

        ``fingerprint`` is the key to try when the message does not name its recipient.
        Nothing is unpacked, so the result is never larger than the message. Raises OpenPGPError.
        """
        result = self.run("--try-secret-key", fingerprint, "--unwrap", data=message, passphrase=passphrase)
        failed = result.code or result.lines("DECRYPTION_FAILED") or not result.lines("DECRYPTION_OKAY")
        if not failed and _is_authenticated(result):
            return result.output
        if result.lines("NO_SECKEY"):
            raise OpenPGPError("not-for-us", "the message is not encrypted to our key")
        if not result.lines("DECRYPTION_KEY"):
            raise OpenPGPError("wrong-passphrase", "gpg cannot use the secret key: wrong passphrase, or no card")
        raise OpenPGPError("malformed", "the message cannot be decrypted")

    def verify(self, message: bytes, certificate: bytes, fingerprint: str) -> None:
        """Raise OpenPGPError unless just this certificate made the one valid signature in a signed message."""
        with TemporaryDirectory(prefix="stubmail-") as directory:
            keyring = Path(directory) / "signer"
            keyring.write_bytes(certificate)
            apart = GnuPG(Path(directory))
            result = apart.run("--no-default-keyring", "--keyring", str(keyring), "--verify", data=message)
        bad = result.lines("BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "FAILURE")
        signers = [line[9] for line in result.lines("VALIDSIG") if len(line) > 9]
        if result.code or bad or len(result.lines("GOODSIG")) != 1 or signers != [fingerprint]:
            raise OpenPGPError("bad-signature", f"the signature is not a valid one by {fingerprint}")

    def sign(self, data: bytes, fingerprint: str, passphrase: str | None) -> bytes:
        """Return a detached binary signature. Raises OpenPGPError."""
        result = self.run(
            *("--local-user", fingerprint, "--digest-algo", "SHA512", "--detach-sign"), data=data, passphrase=passphrase
        )
        if result.code or not result.lines("SIG_CREATED"):
            check_passphrase(result)
            raise OpenPGPError("unsupported", f"gpg cannot sign with key {fingerprint}")
        return result.output

    def seal(self, data: bytes, fingerprint: str, certificates: Sequence[bytes], passphrase: str | None) -> bytes:
        """Return a signed, encrypted, uncompressed binary message. Raises OpenPGPError."""
        with TemporaryDirectory(prefix="stubmail-") as directory:
            recipients = []
            for number, certificate in enumerate(certificates):
                path = Path(directory) / str(number)
                path.write_bytes(certificate)
                recipients += ["--recipient-file", str(path)]
            result = self.run(
                *("--local-user", fingerprint, "--digest-algo", "SHA512", "--compress-algo", "none", "--rfc4880"),
                *(*recipients, "--sign", "--encrypt"),
                data=data,
                passphrase=passphrase,
            )
        if result.code or not result.lines("END_ENCRYPTION") or not result.lines("SIG_CREATED"):
            check_passphrase(result)
            raise OpenPGPError("unsupported", f"gpg cannot sign with key {fingerprint} or encrypt to all recipients")
        return result.output


def missing() -> Exit:
    """Return the error to raise when there is no gpg."""
    return Exit(os.EX_UNAVAILABLE, "gpg not found; apt-get install gnupg")


def check_passphrase(result: Result) -> None:
    """Raise OpenPGPError (wrong-passphrase) when that is why gpg failed."""
    codes = [int(line[-1]) & 0xFFFF for line in result.lines("ERROR", "FAILURE") if line[-1].isdigit()]
    if result.lines("BAD_PASSPHRASE", "MISSING_PASSPHRASE") or _BAD_PASSPHRASE in codes:
        raise OpenPGPError("wrong-passphrase", "the passphrase of the secret key is wrong")


def _is_authenticated(result: Result) -> bool:
    # An MDC, or AEAD, which needs none: DECRYPTION_INFO <mdc method> <sym algo> [<aead algo>]. gpg.conf may say
    # ignore-mdc-error.
    aead = any(len(line) > 2 and line[2] != "0" for line in result.lines("DECRYPTION_INFO"))
    return aead or bool(result.lines("GOODMDC"))


@contextmanager
def _passphrase(text: str) -> Iterator[int]:
    """Yield a descriptor that the passphrase can be read from, once."""
    if any(character in text for character in "\0\r\n"):
        raise OpenPGPError("wrong-passphrase", "a passphrase is one line")
    source, sink = os.pipe()
    try:
        os.write(sink, text.encode()[:4095] + b"\n")  # at most PIPE_BUF, which a pipe takes though nobody reads yet
        os.close(sink)
        yield source
    finally:
        os.close(source)


def _contents(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _parse_status(text: bytes) -> tuple[tuple[str, list[str]], ...]:
    lines = []
    for line in text.split(b"\n"):  # at line feeds only: other separators can stand inside a user ID
        prefix, _, rest = line.partition(b" ")
        if prefix == b"[GNUPG:]" and rest:
            keyword, *arguments = rest.decode("ascii", "replace").split(" ")
            lines.append((keyword, arguments))
    return tuple(lines)
