"""The sender-side store: keeps posts, ciphertext only, until their recipients fetch them (protocol.md §4 to §6).

*Listens*: HTTP for the operations, UDP for the checks; or as a CGI program, with the UDP part as a daemon.
*Holds*: the spool directory with the database: posts, sessions, cookies. No OpenPGP secret key, no plain text.
*Trusts*: its configuration and its accounts file. Whoever sends a request or a datagram proves first who he is.
"""
