"""`post_manager export`: copies one post out of the store, as its recipient would fetch it."""

import re
import sys

import click

from services.post_manager import service
from services.post_manager.commands.section import pass_section
from services.post_manager.settings import PostManager
from services.post_manager.storage import contents, mailbox
from stubmail import cli
from stubmail.errors import PermanentError

_ID = re.compile(r"[0-9a-f]{32}")


@click.command("export", epilog="Example: post_manager export 00112233445566778899aabbccddeeff | gpg --decrypt")
@click.argument("post_id", metavar="ID")
@cli.one_sentence
@pass_section
def export(section: PostManager, post_id: str) -> None:
    """Write a waiting post to standard output: an OpenPGP message that its recipient's gpg opens."""
    if not _ID.fullmatch(post_id):
        raise click.BadParameter("a post id is 32 hex digits")
    output = sys.stdout.buffer
    database = service.open_database(section, 1)
    try:
        with database.read() as connection:
            post = mailbox.find(connection, bytes.fromhex(post_id))
            if post is None:
                raise PermanentError("5.1.0", f"no post {post_id} waits here")
            output.write(post.head)
            for number in range(-(-post.body_size // contents.CHUNK)):
                output.write(contents.read_chunk(connection, post.content, number) or b"")
    finally:
        database.close()
