"""How the users file names a maildrop."""

from pathlib import Path

from services.pop3d.index_cache import IndexCache
from services.pop3d.maildir import MaildirLocation
from services.pop3d.maildrop import Location
from services.pop3d.mbox_maildrop import MboxLocation
from stubmail.errors import PermanentError


def parse_location(text: str, cache: IndexCache | None = None) -> Location:
    """Return the maildrop that ``mbox:PATH`` or ``maildir:PATH`` names. Raises PermanentError.

    ``cache`` keeps what is known of maildrops.
    """
    scheme, _, path = text.partition(":")
    if not path:
        raise PermanentError("5.3.5", "the account has no maildrop")
    if scheme == "mbox":
        return MboxLocation(Path(path), cache)
    if scheme == "maildir":
        return MaildirLocation(Path(path), cache)
    raise PermanentError("5.3.5", f"{scheme}: is no kind of maildrop; known are mbox: and maildir:")
