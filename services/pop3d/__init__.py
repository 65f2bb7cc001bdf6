"""pop3d serves maildrops over POP3 (RFC 1939, 2449, 2595, 3206, 5034, 6856, 8314) to mail programs.

*Listens*: TCP, in the clear with STLS (usually port 110) and under TLS from the first byte (usually 995);
           HTTP for whoever runs it, on loopback.
*Holds*: the users file's password hashes and the certificate's key, both read only; maildrops, of which it removes
         messages at QUIT and nothing else; beside each an index and a lock. No OpenPGP keys, no DNS.
*Trusts*: the file system that the maildrops are on, and nobody who connects.

Modules, inner to outer: ``wire``, ``stuffing``, ``sasl``, ``language``, ``proxy`` (octets); ``session`` with
``authorization``, ``transaction``, their ``terms`` and ``actions`` (the protocol, no I/O); ``tls``, ``patience``,
``verifier`` (no I/O either: time and octets are passed in); ``maildrop`` (what one must offer) with ``mbox_maildrop``
and ``maildir`` behind it, ``uidl``, ``checked``, ``index_*``, ``maildir_*``, ``from_lines`` (ids, where messages are,
and when they came); ``reader`` and ``login`` (what is done in threads); ``arrivals``, ``ahead``, ``busy_poll``,
``clock``, ``channel``, ``retrieval``, ``errands``, ``connection``, ``preamble``, ``server`` (asyncio); ``counting``,
``status`` (for whoever runs it); ``accounts``, ``one_account`` (for whom), ``running`` (as a process), ``__main__``
(command line). ``system`` has the processes that serve users of the machine.
"""
