"""Whose maildrops are served: those of a users file, the one of an auth file, or every user's of the machine."""

import logging
from pathlib import Path

from services.pop3d.settings import Pop3d
from stubmail import auth_file
from stubmail.log import event
from stubmail.users import User, Users, load_users

logger = logging.getLogger("pop3d")


def load_accounts(service: Pop3d) -> Users:
    """Read the accounts that ``service`` names. Raises Exit with one sentence that says what is wrong.

    With ``system_users`` there are none here: PAM knows them.
    """
    if service.users is not None:
        return load_users(service.users)
    if service.auth_file is None:
        return Users([])
    credentials, exposed = auth_file.read(service.auth_file)
    if exposed:
        event(logger, "exposed", level=logging.WARNING, file=service.auth_file, reason="others can read the password")
    # APOP needs the password itself (RFC 1939 §7), and that is what an auth file has.
    return Users([User(credentials.username, None, f"{{PLAIN}}{credentials.password}", f"maildir:{service.maildir}")])


def accounts_file(service: Pop3d) -> Path | None:
    """Return the file that the accounts are in, if they are in one."""
    return service.users or service.auth_file
