"""The memory of domains that have offered stub mail: whoever takes their DNS records away does not get their mail.

One empty file for each domain, so that a person can look and, by removing one, decide that it may be forgotten.
"""

from pathlib import Path

from stubmail.spool import write_durably


class KnownDomains:
    """Domains by name, A-labels in lower case; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        """Use ``directory``, made when it is missing. Raises OSError."""
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __contains__(self, domain: str) -> bool:
        return (self._directory / domain).exists()

    def remember(self, domain: str) -> None:
        """Note durably that a domain offers stub mail. Raises OSError."""
        if domain not in self:
            write_durably(self._directory / domain, b"")
