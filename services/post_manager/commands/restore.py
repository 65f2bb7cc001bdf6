"""`post_manager restore`: puts back what a backup holds and the store has lost, while the store runs."""

import os
import time
from pathlib import Path

import click

from services.post_manager import directory, service
from services.post_manager.commands.section import pass_section
from services.post_manager.settings import PostManager
from services.post_manager.storage import backups, damage
from services.post_manager.storage.copying import Copied
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.examination import Damage, Examination
from services.post_manager.storage.snapshot import Snapshot
from stubmail import cli
from stubmail.errors import Exit

_SHOWN = 20  # damages of a backup that are shown; verify shows all

_EPILOG = """\b
Examples:
  post_manager restore /var/backups/stubmail-2026-11-21.db
  post_manager restore saved.db && post_manager restore last-backup.db     each adds what is still missing
"""


@click.command("restore", epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@cli.one_sentence
@pass_section
def restore(section: PostManager, file: Path) -> None:
    """Add the posts in FILE, a backup, that the store does not know; nothing that happened since is undone.

    The store may run meanwhile. Interrupted, it can be run again. A database that was found damaged is set aside under
    a name with the time, and a new one put in its place.
    """
    path = sqlite_path(section.database_url)
    directory.open_directory(section.spool)
    with backups.opened(file) as source:
        _refuse_damaged(file, source)
        if path is not None and damage.is_marked(path):
            _replace(file, source, path)
            return
        database = service.open_database(section, 1, prepare=True)
        try:
            if database.read_only:
                raise Exit(os.EX_TEMPFAIL, "the database was found damaged just now: run this again to replace it")
            copied = backups.merge(source, database, int(time.time()))
        finally:
            database.close()
    _conclude(file, copied)


def _replace(file: Path, source: Snapshot, path: Path) -> None:
    done = backups.put_in_place(source, path, int(time.time()))
    kept = f"; what was there is now {done.aside}" if done.aside else ""
    click.echo(f"{path} is made anew from {file}{kept}")
    _conclude(file, done.copied)
    if done.with_key:
        click.echo("a store that runs goes on with it")
    else:
        click.echo("the store's own key is lost with the old file: restart a store that runs")


def _refuse_damaged(file: Path, source: Snapshot) -> None:
    """Read all of the backup before anything is written."""
    damages = 0

    def report(damage: Damage) -> None:
        nonlocal damages
        if not damage.sealed:
            damages += 1
            if damages <= _SHOWN:
                click.echo(damage.text, err=True)

    Examination(source, report).run()
    if damages:
        raise Exit(os.EX_DATAERR, f"{file} is damaged, nothing was restored; post_manager verify {file} names it all")


def _conclude(file: Path, copied: Copied) -> None:
    click.echo(f"{file}: added {copied}; {copied.known} posts were known already, and stay as they are")
