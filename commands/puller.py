"""What subcommands know of the puller: its state directory, what it keeps about each account, and how to start it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from commands.accounts import chosen, users_file
from stubmail import settings
from stubmail.address import Address
from stubmail.cookies import account_directory
from stubmail.pull_state import FILE_NAME, PullState
from stubmail.settings import ConfigError
from stubmail.users import User

_PULLER = (sys.executable, "-m", "services.http2mbox")


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the users file that mail is pulled for, and what the puller keeps about it."""

    user: User
    address: Address
    state: PullState


def state_directory(config: Path) -> Path:
    """Return the puller's state directory. Raises ConfigError."""
    table = settings.load_file(config).get("http2mbox")
    named = os.environ.get("STUBMAIL_HTTP2MBOX_STATE") or (table.get("state") if isinstance(table, dict) else None)
    if not isinstance(named, str):
        raise ConfigError(f"[http2mbox] state is missing in {config}: the puller's state directory")
    return Path(named)


@contextmanager
def accounts(config: Path, only: str | None) -> Iterator[list[Account]]:
    """Open what the puller keeps about all accounts, or about one, for the ``with`` block. Raises Exit, StateError.

    Accounts for which nothing was ever pulled are left out.
    """
    directory = state_directory(config)
    found: list[Account] = []
    try:
        for user in chosen(users_file(config), only):
            if user.address is not None:
                path = account_directory(directory, user.address) / FILE_NAME
                if path.exists():
                    found.append(Account(user, user.address, PullState(path)))
        yield found
    finally:
        for account in found:
            account.state.close()


def pull(config: Path, address: Address) -> int:
    """Pull once for an account, and return the exit status: 75 also when another puller is at work for it."""
    command = [*_PULLER, "--config", str(config), "--once", "--quiet", "--account", str(address)]
    return subprocess.run(command, check=False).returncode
