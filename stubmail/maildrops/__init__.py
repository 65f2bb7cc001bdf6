"""Where an account's mail goes, as ``maildrop`` in the users file says: an mbox, a Maildir or a delivery program."""

from stubmail.maildrops.location import MAILDIR, MBOX, PIPE, Location, Maildrop, parse_maildrop
from stubmail.maildrops.maildir import Maildir
from stubmail.maildrops.pipe import Pipe
from stubmail.mbox.file import Committed

__all__ = ["MAILDIR", "MBOX", "PIPE", "Committed", "Location", "Maildir", "Maildrop", "Pipe", "parse_maildrop"]
