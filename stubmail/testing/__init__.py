"""Real parts to test against: a name server, and whole stub mail networks on loopback."""
