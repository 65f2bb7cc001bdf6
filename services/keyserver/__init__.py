"""The domain's key server: HKP for the certificates of its own users, which gpg searches, receives from and sends to.

*Listens*: HTTP, usually port 11371.
*Holds*: a directory with one certificate a file. Public keys only.
*Trusts*: whoever writes to the directory, and clients in ``submit_from`` to bring first certificates. Everybody else
may only look certificates up, and bring what the owner of a certificate on file has signed himself.
"""
