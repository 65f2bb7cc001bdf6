"""On what terms sessions are held: what a server announces, and must keep to."""

from dataclasses import dataclass

NEVER = -1  # days


@dataclass(frozen=True, slots=True)
class Terms:
    """What is so for one session, from its beginning to its end.

    ``tls_offered``: the caller can carry out StartTls. ``plain_allowed``: this client may send its password without
    TLS. ``challenges``: some account's secret is kept as it is, so that APOP and CRAM-MD5 can work. ``mechanisms``:
    those that work for every account without sending its password; clients take the best that is announced, and one
    that fails for some would lock them out. ``login_delay``: seconds between logins of one user, 0 for none.
    ``expire``: days that messages stay at least; with 0 those that were retrieved go at QUIT; NEVER.
    """

    tls_offered: bool = False
    plain_allowed: bool = False
    challenges: bool = False
    mechanisms: tuple[str, ...] = ()
    login_delay: int = 0
    expire: int = NEVER
