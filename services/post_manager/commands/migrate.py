"""`post_manager migrate`: moves a store from its database to another one, usually from SQLite to PostgreSQL."""

import contextlib
import os
from pathlib import Path

import click
from sqlalchemy import URL

from services.post_manager import service
from services.post_manager.commands.section import pass_section
from services.post_manager.commands.source import open_snapshot
from services.post_manager.settings import PostManager
from services.post_manager.storage import moving, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import describe, parse_url, sqlite_path
from services.post_manager.storage.errors import StorageDamaged, StorageError
from stubmail import cli
from stubmail.errors import Exit

VARIABLE = "STUBMAIL_POST_MANAGER_MIGRATE_TO"

_EPILOG = f"""\b
Examples:
  post_manager migrate --to postgresql://stubmail@db.example/stubmail --dry-run
  post_manager migrate --to-file /run/secrets/database-url
Both understand what PGPASSWORD and ~/.pgpass say. Afterwards set [post_manager] database and start post_manager again.

\b
Environment: {VARIABLE} and {VARIABLE}__FILE, instead of --to and --to-file.
"""


@click.command("migrate", epilog=_EPILOG)
@click.option("--to", "url", metavar="URL", help="The other database, which must be empty. Without a password.")
@click.option("--to-file", type=click.Path(path_type=Path), help="A file with the URL, which may have a password.")
@click.option(
    "--dry-run", is_flag=True, help="Count what would be moved, look whether the target is fit, change nothing."
)
@cli.one_sentence
@pass_section
def migrate(section: PostManager, url: str | None, to_file: Path | None, dry_run: bool) -> None:
    """Move all posts to another, empty database, and mark this one as moved.

    A store that runs meanwhile answers 503 to what would change something; it does so ever after, until it is
    configured for the other database. Killed at any point, the command can be run again.
    """
    wanted = _target(url, to_file)
    if wanted == parse_url(section.database_url):
        raise Exit(os.EX_USAGE, "the target is the database that the store has now")
    text = wanted.render_as_string(hide_password=False)
    where = describe(text)
    if dry_run:
        _look(section, text, where)
        return
    with contextlib.closing(_open(text, where)) as target, contextlib.closing(_source(section)) as source:
        try:
            copied = moving.move(source, target)
        except StorageDamaged as error:
            hint = "post_manager verify names all damage; nothing was moved"
            raise Exit(os.EX_DATAERR, f"the database is damaged ({error.text}); {hint}") from error
    what = f"moved {copied}" if copied is not None else "an earlier move was complete"
    click.echo(f"{what}; now set [post_manager] database to {where}, and start post_manager again")


def _target(url: str | None, to_file: Path | None) -> URL:
    """Return the URL that was given in one of four ways. Raises Exit."""
    file = to_file or (Path(os.environ[VARIABLE + "__FILE"]) if VARIABLE + "__FILE" in os.environ else None)
    given = [way for way in (url, to_file) if way is not None]
    if len(given) > 1:
        raise Exit(os.EX_USAGE, "give either --to or --to-file")
    try:
        text = url or (file.read_text().strip() if file is not None else os.environ.get(VARIABLE, ""))
    except (OSError, ValueError) as error:
        raise Exit(os.EX_NOINPUT, f"{file} cannot be read: {error}") from error
    if not text:
        raise Exit(os.EX_USAGE, "say where to: --to URL or --to-file FILE")
    try:
        parsed = parse_url(text)
    except ValueError as error:
        raise Exit(os.EX_USAGE, f"the target: {error}") from error
    if url is not None and parsed.password is not None:
        raise Exit(os.EX_USAGE, "every user of this machine can read a command line: give the password with --to-file")
    return parsed


def _connect(url: str, where: str) -> Database:
    try:
        return Database(url, 2)
    except (ValueError, ImportError, StorageError) as error:
        raise _useless(where, str(error)) from error


def _useless(where: str, why: str) -> Exit:
    return Exit(os.EX_UNAVAILABLE, f"{where} cannot be used: {why}")


def _open(url: str, where: str) -> Database:
    database = _connect(url, where)
    try:
        schema.prepare(database)
    except StorageError as error:
        database.close()
        raise _useless(where, error.text) from error
    except Exit:
        database.close()
        raise
    return database


def _source(section: PostManager) -> Database:
    path = sqlite_path(section.database_url)
    if path is not None and not path.exists():
        raise Exit(os.EX_NOINPUT, f"there is no database {path}")
    database = service.open_database(section, 1, moved=True)
    if database.read_only:
        database.close()
        raise Exit(os.EX_DATAERR, "the database is damaged: restore a backup first")
    return database


def _look(section: PostManager, url: str, where: str) -> None:
    """Say what would be moved, and whether the target would take it; nothing is changed anywhere."""
    with open_snapshot(section) as source:
        number, bodies, octets = source.count()
    path = sqlite_path(url)
    state = "does not exist yet" if path is not None and not path.exists() else _state(url, where)
    click.echo(f"would move {number} posts, {bodies} contents with {octets} octets; {where} {state}")


def _state(url: str, where: str) -> str:
    with contextlib.closing(_connect(url, where)) as target:
        try:
            with target.read() as connection:
                if schema.version_of(connection) is None:
                    return "has no tables yet"
                moving.refuse_filled(connection)
        except StorageError as error:
            raise _useless(where, error.text) from error
    return "is an empty store"
