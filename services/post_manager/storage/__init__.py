"""Where posts, sessions and cookies are kept: SQLAlchemy Core on the embedded SQLite, or on a database server."""
