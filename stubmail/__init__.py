"""What the services agree on: formats, discovery, OpenPGP, maildrops, settings and logs."""

__version__ = "0.1.0"
