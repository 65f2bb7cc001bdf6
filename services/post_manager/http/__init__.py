"""The store over HTTP: from the connection to the operation."""
