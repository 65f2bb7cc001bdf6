"""What a database is asked to do: a look at each statement just before it is done, whichever way it goes there."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Before = Callable[[str, Any], None]  # gets the statement and its values; what it raises, the statement raises
After = Callable[[str, int], None]  # gets the statement and how many rows it changed, -1 when it does not change any


def watch_statements(before: Before, after: After = lambda *_: None) -> Callable[[], None]:
    """Have all statements of this process looked at, from now on; return what ends that."""
    from sqlalchemy import Engine, event

    from services.post_manager.storage import statements

    def on_before(_connection: object, _cursor: object, sql: str, values: Any, _context: object, many: bool) -> None:
        before(sql, values[0] if many else values)

    def on_after(_connection: object, cursor: Any, sql: str, *_: object) -> None:
        after(sql, cursor.rowcount)

    def ask_sqlite(driver: Any, sql: str, values: Any) -> Any:
        before(sql, values)
        cursor = driver.execute(sql, values)
        found = cursor.fetchall()
        after(sql, cursor.rowcount)
        return found

    directly = statements._ask_sqlite
    statements._ask_sqlite = ask_sqlite
    event.listen(Engine, "before_cursor_execute", on_before)
    event.listen(Engine, "after_cursor_execute", on_after)

    def end() -> None:
        statements._ask_sqlite = directly
        event.remove(Engine, "before_cursor_execute", on_before)
        event.remove(Engine, "after_cursor_execute", on_after)

    return end


@contextlib.contextmanager
def watched_statements(before: Before, after: After = lambda *_: None) -> Iterator[None]:
    """The same until the block ends."""
    end = watch_statements(before, after)
    try:
        yield
    finally:
        end()
