"""What the services agree on: formats, discovery, OpenPGP, maildrops, settings and logs."""
