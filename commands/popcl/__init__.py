"""popcl: fetches the mail of one POP3 account into a directory, one file a message.

*Listens* nowhere. *Holds* the account's password while it runs. *Trusts* the auth file and, over TLS, the certificates
that it was given; nothing that the server sends.
"""
