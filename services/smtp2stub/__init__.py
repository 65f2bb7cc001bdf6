"""The gateway: takes mail from its accounts' programs, keeps it safe, and sends it as stub mail or through a smarthost.

Two processes: the *receiver* talks SMTP to strangers, the *courier* works with keys. They share the spool directory.

*Listens*: the receiver on SMTP (``listen``) and SMTP under TLS (``tls_listen``); the courier on nothing.
*Holds*: the receiver password hashes and the TLS key; the courier the accounts' secret OpenPGP keys and keyrings, and
the smarthost's password. Both the accepted mail in the spool, in clear text until it has left.
*Trusts*: authenticated clients, and those on loopback, to send as the accounts that they name; DNS only when it answers
with authority; the keyring over any key server; its own domain's store to keep what it confirmed.
"""
