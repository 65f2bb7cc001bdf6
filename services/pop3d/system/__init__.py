"""Users of the machine (``system_users = true``): PAM at the door, one process per session under the user's uid.

Started as root there are three kinds of process, forked from one that has no threads:

    keeper    root. Holds the listening sockets, starts the others; reads nothing that a stranger wrote.
    front     login_user, no groups. Everything before login: greeting, STLS, TLS, commands. Can open no maildrop.
    session   one for each login. Root for as long as PAM takes, then the user for good: opens that maildrop, no other,
              and goes on with the client's own socket; under TLS with a pair of sockets, as the front keeps TLS.

A login: the front sends the keeper one end of a socket pair, which goes to a new session process; over that pair go
name and password, the answer, and the client's socket (SCM_RIGHTS, unix(7)).

Modules: ``pam``, ``privileges`` and ``landlock`` (system calls), ``people`` (users and their maildrops), ``calls`` (the
datagrams), ``keeper``, ``session_process`` with ``resumed``, ``front`` with ``relay`` and ``refusals``.
"""
