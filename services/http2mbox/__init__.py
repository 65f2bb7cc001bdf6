"""The puller: asks the stores of an account's correspondents for mail, verifies it, and puts it into the maildrop.

*Listens*: nowhere for mail; it asks by UDP and HTTP. A daemon shows its health on ``admin_listen`` (loopback).
*Holds*: the recipients' secret keys, as the only service that does; cookies, and the ids of what it has delivered.
*Trusts*: the account's keyring alone. DNS says where to ask, and a store says what waits, but nothing that either
says can make a message appear that a correspondent has not signed for this very recipient.

Modules, inner to outer: ``header``, ``delivered``, ``contacts``, ``trust``, ``listing``, ``causes``, ``notices`` and
``schedule`` (rules, no I/O); ``state`` and ``held`` (what must not be forgotten); ``account`` (key, keyring,
maildrop); ``tally``, ``incoming``, ``opening``, ``deposits``, ``intake`` and ``pull`` (one pass over one store),
``outbox``; ``workers``, ``turns``, ``checks``, ``visits`` and ``puller`` (all domains at once); ``counters``,
``status``, ``progress`` and ``report`` (what came of it); ``accounts``, ``process`` and ``__main__`` (signals, command
line), ``check`` (--check).
"""
