"""`post_manager verify`: reads everything that a store holds, and names what is damaged."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from services.post_manager.commands.section import pass_section
from services.post_manager.commands.source import open_snapshot
from services.post_manager.settings import PostManager
from services.post_manager.storage import backups, damage
from services.post_manager.storage.engines import describe, sqlite_path
from services.post_manager.storage.examination import Damage, Examination, Seen
from services.post_manager.storage.snapshot import Snapshot
from stubmail import cli

_EPILOG = """\b
Examples:
  post_manager verify
  post_manager verify /var/backups/stubmail-2026-11-21.db
"""


@dataclass(slots=True)
class _Found:
    """How many damages there are, and the first one that makes the file as a whole unreliable."""

    damages: int = 0
    pages: str = ""


@click.command("verify", epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@cli.one_sentence
@pass_section
def verify(section: PostManager, file: Path | None) -> None:
    """Read every post and its content, in the store or in the backup FILE, and hold them against their digests.

    The store may run meanwhile. Exit status 0: all is good; 65: a line for each damage is on standard output. A store
    that stopped writing because its database seemed damaged, though it is good, begins to write again.
    """
    if file is not None:
        with backups.opened(file) as source:
            seen, found = _examine(source)
        _conclude(str(file), seen, found)
        return
    with open_snapshot(section) as source:
        seen, found = _examine(source)
    if (path := sqlite_path(section.database_url)) is not None:
        _remember(path, found)
    _conclude(describe(section.database_url), seen, found)


def _examine(source: Snapshot) -> tuple[Seen, _Found]:
    found = _Found()

    def report(damage: Damage) -> None:
        found.damages += 1
        found.pages = found.pages or (damage.text if damage.pages else "")
        click.echo(damage.text)

    return Examination(source, report).run(), found


def _remember(path: Path, found: _Found) -> None:
    """The store must not write to a file that cannot be relied upon, and may write to one that can."""
    if found.pages:
        damage.mark(path, found.pages)
    elif not found.damages and damage.is_marked(path):
        damage.clear(path)
        click.echo(f"{path} is whole: the store writes to it again")


def _conclude(where: str, seen: Seen, found: _Found) -> None:
    read = f"{seen.posts} posts, {seen.waiting} of them waiting, {seen.contents} contents with {seen.octets} octets"
    if not found.damages:
        click.echo(f"{where} is good: {read}")
        return
    click.echo(f"post_manager: {where} has {found.damages} damages; read were {read}", err=True)
    sys.exit(os.EX_DATAERR)
