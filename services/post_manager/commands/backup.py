"""`post_manager backup`: one state of all posts, in a file, while the store runs."""

import time
from pathlib import Path

import click

from services.post_manager.commands.section import pass_section
from services.post_manager.commands.source import open_snapshot, refuse_own_file
from services.post_manager.settings import PostManager
from services.post_manager.storage import backups
from services.post_manager.storage.examination import Damage, Examination
from stubmail import cli

_EPILOG = """\b
Examples:
  post_manager backup /var/backups/stubmail-$(date +%F).db
  post_manager backup --salvage saved.db     what can still be read of a damaged database
"""


@click.command("backup", epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE when it is there already.")
@click.option("--salvage", is_flag=True, help="Leave out posts that are damaged, and name them, instead of giving up.")
@cli.one_sentence
@pass_section
def backup(section: PostManager, file: Path, force: bool, salvage: bool) -> None:
    """Write all posts, as they are at one moment, to FILE: an SQLite database for `post_manager restore`.

    The store may run meanwhile. FILE is complete and on disk when the command ends, and never there before. It holds
    posts that wait, with their contents, and what is known of those that no longer wait; no session, no cookie.
    """
    if str(file) == "-":
        raise click.BadParameter("a backup is a database, which cannot be written to a pipe: name a file")
    refuse_own_file(section, file)
    with open_snapshot(section) as source:
        pages = source.pages()
        if salvage:
            pages = Examination(source, _name).sound_posts()
        copied = backups.write(source, pages, file, int(time.time()), replace=force, salvage=salvage)
    click.echo(f"{file}: {copied}, {file.stat().st_size} octets in all")


def _name(damage: Damage) -> None:
    if not damage.sealed:
        click.echo(f"left out: {damage.text}", err=True)
