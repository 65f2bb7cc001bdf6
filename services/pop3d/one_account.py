"""The command line for one account: a Maildir, an auth file and a port say all; there is no configuration file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.pop3d.listening import everywhere
from services.pop3d.maildir import MaildirLocation
from stubmail.errors import Exit, PermanentError
from stubmail.settings import ConfigError

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class OneAccount:
    """What -a, -d, -p, -c and -r say; None or False for those that were not given."""

    auth_file: Path | None
    maildir: Path | None
    port: str | None
    clear: bool
    reset: bool

    @property
    def serves(self) -> bool:
        """Whether there is an account to serve; else it is that of a configuration file, or -r is all there is to do.

        Raises Exit, EX_USAGE, when one of -a and -d is missing.
        """
        if self.auth_file is not None and self.maildir is None:
            raise Exit(os.EX_USAGE, "-a needs -d PATH too, the Maildir that the account opens")
        if self.auth_file is None and self.maildir is not None and not self.reset:
            raise Exit(os.EX_USAGE, "-d needs -a PATH too, the file with the account's username and password")
        return self.auth_file is not None

    def over(self, flags: dict[str, Any]) -> dict[str, Any]:
        """Return ``flags``, the settings that other flags gave, with these beside them. Raises Exit."""
        given = dict(flags)
        if self.port is not None:
            if "listen" in flags:
                raise Exit(os.EX_USAGE, "-p PORT and --listen HOST:PORT exclude each other")
            given["listen"] = everywhere(_port(self.port))
        if self.serves:
            if "users" in flags:
                raise Exit(os.EX_USAGE, "-a PATH and --users FILE exclude each other")
            if not given.keys() & {"listen", "tls_listen"}:
                raise Exit(os.EX_USAGE, "-p PORT is missing: where to listen")
            # Without -c no password crosses the network, not even this machine's own.
            given = {"allow_plain": False, "allow_plain_loopback": False, **given}
            self._look()
            given |= {"auth_file": str(self.auth_file), "maildir": str(self.maildir)}
        if self.clear:
            given |= {"allow_plain": True, "allow_plain_loopback": True}
        return given

    def put_back(self) -> str:
        """Reset the Maildir as -r asks, and return what was done in a sentence.

        Messages go back to new without their flags, and what was kept about them is forgotten, but only if every
        message could be moved. Raises Exit when there is no -d or no Maildir, else as MaildirLocation.reset.
        """
        if self.maildir is None:
            raise Exit(os.EX_USAGE, "-r needs -d PATH, the Maildir to reset")
        self._look()
        MaildirLocation(self.maildir).reset()
        return f"{self.maildir}: reset"

    def _look(self) -> None:
        assert self.maildir is not None
        try:
            MaildirLocation(self.maildir).check()
        except PermanentError as error:
            raise ConfigError(error.text) from None


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65_535:
        raise Exit(os.EX_USAGE, f"-p {text}: a port is a number from 0 to 65535")
    return int(text)
