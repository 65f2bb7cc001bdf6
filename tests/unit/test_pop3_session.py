"""The POP3 session: RFC 1939's states and commands, and that it does not matter how the octets arrive."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.session import MANY, MAX_ERRORS, Session
from services.pop3d.terms import NEVER, Terms
from services.pop3d.transaction import LISTING_BLOCK
from tests.support.pop3 import Driver, FakeMaildrop

MESSAGES = [
    b"Subject: one\r\n\r\nfirst\r\n.hidden\r\n",
    b"Subject: two\r\n\r\nl1\r\nl2\r\nl3\r\n",
    b"",
    b"no empty line\r\n",
]
SIZES = [len(message) for message in MESSAGES]
PLAIN = base64.b64encode(b"\0bob\0open sesame")


@pytest.fixture
def bob() -> Driver:
    """A session that is logged in."""
    driver = Driver(FakeMaildrop(MESSAGES))
    assert driver.log_in().endswith(b"+OK maildrop has 4 messages (%d octets)\r\n" % sum(SIZES))
    return driver


def test_the_greeting_comes_first_and_alone() -> None:
    assert Driver().greeting == b"+OK stubmail POP3 server ready\r\n"


def test_stat_list_and_uidl_agree(bob: Driver) -> None:
    assert bob.send(b"STAT\r\n") == b"+OK 4 %d\r\n" % sum(SIZES)
    listing = b"".join(b"%d %d\r\n" % (number, size) for number, size in enumerate(SIZES, 1))
    assert bob.send(b"LIST\r\n") == b"+OK 4 messages (%d octets)\r\n" % sum(SIZES) + listing + b".\r\n"
    assert bob.send(b"LIST 2\r\n") == b"+OK 2 %d\r\n" % SIZES[1]
    assert bob.send(b"UIDL\r\n") == b"+OK unique-ids follow\r\n1 uid-1\r\n2 uid-2\r\n3 uid-3\r\n4 uid-4\r\n.\r\n"
    assert bob.send(b"UIDL 4\r\n") == b"+OK 4 uid-4\r\n"


def test_retr_sends_the_message_stuffed_and_its_size_unstuffed(bob: Driver) -> None:
    assert bob.send(b"RETR 1\r\n") == b"+OK %d octets\r\nSubject: one\r\n\r\nfirst\r\n..hidden\r\n.\r\n" % SIZES[0]
    assert bob.send(b"RETR 3\r\n") == b"+OK 0 octets\r\n.\r\n"


def test_top(bob: Driver) -> None:
    assert bob.send(b"TOP 2 0\r\n") == b"+OK top of message 2\r\nSubject: two\r\n\r\n.\r\n"
    assert bob.send(b"TOP 2 2\r\n") == b"+OK top of message 2\r\nSubject: two\r\n\r\nl1\r\nl2\r\n.\r\n"
    assert bob.send(b"TOP 2 99999\r\n").endswith(b"l3\r\n.\r\n")
    assert bob.send(b"TOP 4 0\r\n") == b"+OK top of message 4\r\nno empty line\r\n.\r\n"


def test_a_deleted_message_is_gone_from_everything_and_numbers_do_not_move(bob: Driver) -> None:
    assert bob.send(b"DELE 2\r\n") == b"+OK message 2 deleted\r\n"
    assert bob.send(b"STAT\r\n") == b"+OK 3 %d\r\n" % (sum(SIZES) - SIZES[1])
    assert b"\r\n2 " not in bob.send(b"LIST\r\n") + bob.send(b"UIDL\r\n")
    for command in (b"RETR 2", b"TOP 2 0", b"DELE 2", b"LIST 2", b"UIDL 2"):
        assert bob.send(command + b"\r\n") == b"-ERR The message is deleted\r\n"
    assert bob.send(b"UIDL 3\r\n") == b"+OK 3 uid-3\r\n"


def test_rset_brings_everything_back(bob: Driver) -> None:
    bob.send(b"DELE 1\r\nDELE 2\r\n")
    assert bob.send(b"RSET\r\n") == b"+OK maildrop has 4 messages (%d octets)\r\n" % sum(SIZES)
    assert bob.send(b"LIST 2\r\n").startswith(b"+OK 2 ")
    bob.send(b"QUIT\r\n")
    assert bob.maildrop.committed == []


def test_quit_removes_what_was_marked(bob: Driver) -> None:
    assert bob.send(b"DELE 1\r\nDELE 3\r\nQUIT\r\n").endswith(b"+OK stubmail POP3 server signing off\r\n")
    assert bob.maildrop.committed == [1, 3]
    assert bob.closed == "quit"
    assert bob.session.statistics.deleted == 2


def test_quit_that_fails_says_so_and_nothing_counts_as_deleted() -> None:
    bob = Driver(FakeMaildrop(MESSAGES), commit_works=False)
    bob.log_in()
    assert bob.send(b"DELE 1\r\nQUIT\r\n").endswith(b"-ERR [SYS/TEMP] Nothing was deleted, try again later\r\n")
    assert bob.closed
    assert bob.session.statistics.deleted == 0


def test_quit_says_that_the_disk_is_full() -> None:
    bob = Driver(FakeMaildrop(MESSAGES), commit_works=False, disk_full=True)
    bob.log_in()
    assert bob.send(b"DELE 1\r\nQUIT\r\n").endswith(b"-ERR [SYS/TEMP] The disk is full: messages were not deleted\r\n")
    assert bob.closed
    assert bob.session.statistics.deleted == 0


def test_a_deleted_message_that_another_program_changed_stays_and_quit_says_so(bob: Driver) -> None:
    bob.maildrop.changed = 1
    replies = bob.send(b"DELE 1\r\nDELE 2\r\nQUIT\r\n")
    assert replies.endswith(b"-ERR Some deleted messages were not removed: another program has changed them\r\n")
    assert bob.session.statistics.deleted == 1


def test_quit_before_login_touches_no_maildrop() -> None:
    driver = Driver()
    assert driver.send(b"QUIT\r\n") == b"+OK stubmail POP3 server signing off\r\n"
    assert driver.closed
    assert driver.maildrop.committed is None


def test_nothing_is_read_behind_quit(bob: Driver) -> None:
    assert bob.send(b"QUIT\r\nSTAT\r\n").count(b"\r\n") == 1
    assert bob.send(b"STAT\r\n") == b""


@pytest.mark.parametrize(
    "number", [b"0", b"5", b"-1", b"+1", b"1_0", b"99999999999999999999", b"1.0", b"one", b"\xd9\xa1", b"1 1", b""]
)
@pytest.mark.parametrize("keyword", [b"DELE", b"RETR"])
def test_a_number_that_names_no_message_hits_none(bob: Driver, keyword: bytes, number: bytes) -> None:
    assert bob.send(keyword + b" " + number + b"\r\n").startswith(b"-ERR ")
    bob.send(b"QUIT\r\n")
    assert bob.maildrop.committed == []


@pytest.mark.parametrize(
    "line", [b"STAT 1", b"NOOP x", b"RSET 1", b"QUIT now", b"CAPA x", b"TOP 1", b"TOP 1 -1", b"TOP 1 1 1", b"LIST 1 2"]
)
def test_arguments_too_many_or_too_few(bob: Driver, line: bytes) -> None:
    assert bob.send(line + b"\r\n").startswith(b"-ERR ")
    assert not bob.closed


@pytest.mark.parametrize("line", [b"stat", b"Stat", b"STAT ", b"StAt\r"])
def test_keywords_in_any_case_and_trailing_spaces(bob: Driver, line: bytes) -> None:
    assert bob.send(line.rstrip(b"\r") + b"\r\n").startswith(b"+OK 4 ")


@pytest.mark.parametrize("line", [b"STAT", b"LIST", b"UIDL", b"RETR 1", b"TOP 1 0", b"DELE 1", b"RSET", b"NOOP"])
def test_mail_commands_before_login_are_refused(line: bytes) -> None:
    driver = Driver()
    assert driver.send(line + b"\r\n") == b"-ERR Not now\r\n"
    assert not driver.logins


@pytest.mark.parametrize("line", [b"USER bob", b"PASS x", b"AUTH PLAIN", b"STLS"])
def test_login_commands_after_login_are_refused(bob: Driver, line: bytes) -> None:
    assert bob.send(line + b"\r\n") == b"-ERR Not now\r\n"


def test_user_never_tells_who_is_here() -> None:
    answers = {Driver().send(b"USER " + name + b"\r\n") for name in (b"bob", b"nobody", b"bob\0x", b"\xff", b"a b")}
    assert answers == {b"+OK send PASS\r\n"}


def test_names_and_passwords_are_passed_on_octet_for_octet() -> None:
    driver = Driver()
    driver.send(b"USER a\0b \xc3\xa9\r\nPASS  two  spaces \0 end \r\n")
    assert (driver.logins[0].name, driver.logins[0].password) == (b"a\0b \xc3\xa9", b" two  spaces \0 end ")


@pytest.mark.parametrize("line", [b"NOOP", b"CAPA", b"LANG", b"UTF8", b"AUTH", b"XYZZY", b"", b"USER", b"STAT", b"\0"])
def test_pass_comes_at_once_after_user(line: bytes) -> None:
    """RFC 1939 §7."""
    driver = Driver()
    assert driver.send(b"USER bob\r\n").endswith(b"+OK send PASS\r\n")
    driver.send(line + b"\r\n")
    assert driver.send(b"PASS open sesame\r\n") == b"-ERR Send USER first\r\n"
    assert b"+OK maildrop" in driver.log_in()


def test_pass_needs_user_each_time() -> None:
    driver = Driver()
    assert driver.send(b"PASS open sesame\r\n") == b"-ERR Send USER first\r\n"
    assert driver.send(b"USER bob\r\nPASS wrong\r\n").endswith(b"-ERR [AUTH] Authentication failed\r\n")
    assert driver.send(b"PASS open sesame\r\n") == b"-ERR Send USER first\r\n"
    assert b"+OK maildrop" in driver.log_in()


@pytest.mark.parametrize("code", ["IN-USE", "SYS/TEMP", "SYS/PERM"])
def test_a_refusal_carries_its_code_and_leaves_the_session_as_it_was(code: str) -> None:
    driver = Driver(refusal=(code, "Not today"))
    assert driver.log_in().endswith(f"-ERR [{code}] Not today\r\n".encode())
    assert driver.send(b"STAT\r\n") == b"-ERR Not now\r\n"


def test_auth_plain_in_one_line_and_in_two() -> None:
    assert Driver().send(b"AUTH PLAIN " + PLAIN + b"\r\n").startswith(b"+OK maildrop")
    driver = Driver()
    assert driver.send(b"auth plain\r\n") == b"+ \r\n"
    assert driver.send(PLAIN + b"\r\n").startswith(b"+OK maildrop")


def test_auth_cancelled_empty_unknown_and_listed() -> None:
    driver = Driver()
    assert driver.send(b"AUTH PLAIN\r\n*\r\n") == b"+ \r\n-ERR Authentication cancelled\r\n"
    assert driver.send(b"AUTH PLAIN =\r\n").startswith(b"-ERR ")
    assert driver.send(b"AUTH GSSAPI\r\n").startswith(b"-ERR Unknown")
    assert driver.send(b"AUTH\r\n") == b"+OK mechanisms follow\r\nPLAIN\r\nLOGIN\r\n.\r\n"
    assert not driver.logins


def test_a_response_may_be_as_long_as_rfc_5034_says_and_no_longer() -> None:
    long = base64.b64encode(b"\0bob\0" + b"x" * 9000)
    assert Driver().send(b"AUTH PLAIN\r\n" + long + b"\r\n").endswith(b"-ERR [AUTH] Authentication failed\r\n")
    assert Driver().send(b"AUTH PLAIN " + long + b"\r\n") == b"-ERR [AUTH] Authentication failed\r\n"
    assert Driver().send(b"AUTH PLAIN\r\n" + b"A" * 12_288).endswith(b"-ERR Line too long\r\n")


def capabilities(driver: Driver) -> list[bytes]:
    status, *lines, end = driver.send(b"CAPA\r\n").split(b"\r\n")[:-1]
    assert status.startswith(b"+OK")
    assert end == b"."
    return lines


ALWAYS = [
    b"TOP",
    b"UIDL",
    b"RESP-CODES",
    b"AUTH-RESP-CODE",
    b"PIPELINING",
    b"UTF8 USER",
    b"LANG",
    b"EXPIRE NEVER",
    b"LOGIN-DELAY 0",
    b"IMPLEMENTATION stubmail",
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tls_offered": False}, [b"USER", b"SASL PLAIN LOGIN"]),
        ({}, [b"USER", b"SASL PLAIN LOGIN", b"STLS"]),
        ({"plain_allowed": False}, [b"STLS"]),
        ({"plain_allowed": False, "encrypted": True}, [b"USER", b"SASL PLAIN LOGIN"]),
        ({"plain_allowed": False, "tls_offered": False}, []),
    ],
)
def test_capa_says_what_is_true_and_the_same_in_both_states(options: dict[str, bool], expected: list[bytes]) -> None:
    driver = Driver(**options)
    assert sorted(capabilities(driver)) == sorted(ALWAYS + expected)
    if expected and b"USER" in expected:
        driver.log_in()
        assert sorted(capabilities(driver)) == sorted(ALWAYS + expected)


@pytest.mark.parametrize("line", [b"USER bob", b"PASS open sesame", b"AUTH PLAIN", b"AUTH PLAIN " + PLAIN])
def test_no_password_is_taken_in_the_clear_from_afar(line: bytes) -> None:
    driver = Driver(plain_allowed=False)
    assert driver.send(line + b"\r\n") == b"-ERR Passwords are taken under TLS only, say STLS first\r\n"
    assert not driver.logins
    assert driver.send(b"AUTH\r\n") == b"+OK mechanisms follow\r\n.\r\n"


def test_stls_then_login() -> None:
    driver = Driver(plain_allowed=False)
    assert driver.send(b"STLS\r\n") == b"+OK begin TLS\r\n"
    assert driver.tls
    assert b"STLS" not in capabilities(driver)
    assert driver.send(b"STLS\r\n") == b"-ERR TLS is already on\r\n"
    assert b"+OK maildrop" in driver.log_in()


def test_stls_forgets_the_name() -> None:
    driver = Driver()
    driver.send(b"USER bob\r\nSTLS\r\n")
    assert driver.send(b"PASS open sesame\r\n") == b"-ERR Send USER first\r\n"


def test_stls_without_a_certificate() -> None:
    assert Driver(tls_offered=False).send(b"STLS\r\n") == b"-ERR TLS is not available\r\n"


@pytest.mark.parametrize("behind", [b"CAPA\r\n", b"\r\n", b"\0", b"USER bob\r\nPASS open sesame\r\n"])
def test_octets_behind_stls_end_the_session_before_tls_begins(behind: bytes) -> None:
    driver = Driver()
    assert driver.send(b"STLS\r\n" + behind) == b"-ERR Nothing may follow STLS before its reply\r\n"
    assert driver.closed
    assert not driver.tls
    assert not driver.logins


def test_a_line_too_long_ends_the_session_and_none_of_it_is_run(bob: Driver) -> None:
    assert (
        bob.send(b"NOOP\r\nDELE 1" + b" " * 250 + b"DELE 2\r\nDELE 3\r\nQUIT\r\n") == b"+OK\r\n-ERR Line too long\r\n"
    )
    assert bob.closed == "line too long"
    assert bob.maildrop.committed is None


def test_ten_errors_in_a_row_end_the_session(bob: Driver) -> None:
    assert bob.send(b"X\r\n" * (MAX_ERRORS - 1) + b"NOOP\r\n" + b"X\r\n" * (MAX_ERRORS - 1)).count(b"-ERR") == 18
    assert not bob.closed
    assert bob.send(b"X\r\n" * 5).count(b"-ERR") == 1
    assert bob.closed == "too many errors"


def test_before_login_nothing_interrupts_the_row_of_errors() -> None:
    driver = Driver()
    answer = driver.send(b"USER bob\r\nPASS wrong\r\nCAPA\r\n" * 20)
    assert len(driver.logins) == MAX_ERRORS
    assert answer.endswith(b"-ERR [AUTH] Authentication failed\r\n")
    assert driver.closed == "too many errors"


def test_commands_wait_in_order_while_the_login_is_decided() -> None:
    session = Session(Terms(plain_allowed=True), encrypted=False, fresh=str)
    session.receive(b"USER bob\r\nPASS x\r\nSTAT\r\n")
    seen = []
    while (action := session.next()) is not None:
        seen.append(action)
    assert session.pending == len(b"STAT\r\n")
    session.accept(FakeMaildrop([b"a\r\n"]))
    assert [session.next(), session.next(), session.next()] == [
        b"+OK maildrop has 1 message (3 octets)\r\n",
        b"+OK 1 3\r\n",
        None,
    ]


def test_a_long_listing_comes_in_blocks() -> None:
    count = 3 * LISTING_BLOCK + 1
    session = Session(Terms(plain_allowed=True), encrypted=False, fresh=str)
    session.receive(b"USER bob\r\nPASS x\r\n")
    while session.next() is not None:
        pass
    session.accept(FakeMaildrop([b""] * count))
    session.receive(b"DELE 1\r\nLIST\r\nNOOP\r\n")
    blocks = []
    while (block := session.next()) is not None:
        assert isinstance(block, bytes)
        blocks.append(block)
    assert max(map(len, blocks)) < 10 * LISTING_BLOCK
    lines = b"".join(blocks[2:]).split(b"\r\n")
    assert lines[1:count] == [b"%d 0" % number for number in range(2, count + 1)]
    assert lines[count:] == [b".", b"+OK", b""]


words = st.sampled_from(
    [b"1", b"2", b"3", b"4", b"5", b"0", b"-1", b"x", b"", b"1 1", b"2 0", b"99999999999", b"\xff\0"]
)
keywords = st.sampled_from(
    [*b"USER PASS AUTH CAPA QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL user Dele XYZZY".split(), b"", b"\0", b"\xff"]
)
commands = st.one_of(
    st.builds(lambda keyword, word: keyword + b" " + word, keywords, words),
    keywords,
    st.sampled_from(
        [
            b"USER bob\r\nPASS open sesame",
            b"AUTH PLAIN " + PLAIN,
            b"AUTH PLAIN\r\n" + PLAIN,
            b"AUTH PLAIN\r\n*",
            b"a" * 300,
        ]
    ),
    st.binary(max_size=10),
)
dialogs = st.lists(
    st.builds(lambda line, end: line + end, commands, st.sampled_from([b"\r\n", b"\r\n", b"\n"])), max_size=30
)


@given(dialogs.map(b"".join), st.integers(1, 9), st.booleans())
def test_whole_or_in_pieces_the_session_is_the_same(data: bytes, step: int, logged_in: bool) -> None:
    drivers = []
    for size in (0, 1, step):
        driver = Driver(FakeMaildrop(MESSAGES), tls_offered=False)
        if logged_in:
            driver.log_in()
        drivers.append((driver.send(data, size), driver.closed, driver.maildrop.committed, driver.logins))
    assert drivers[0] == drivers[1] == drivers[2]


retrievals = st.builds(
    lambda line, end: line + end,
    st.one_of(
        st.integers(0, 5).map(lambda number: b"RETR %d" % number),
        st.sampled_from([b"RETR 1", b"RETR 2", b"RETR 3", b"DELE 2", b"RSET", b"RETR 02", b"retr 1", b"RETR 1 ", b"X"]),
        st.sampled_from([b"UIDL", b"QUIT", b"RETR 99999999999", b"TOP 1 0", b"RETR"]),
    ),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]),
)


@given(st.lists(retrievals, max_size=20).map(b"".join), st.integers(0, 9), st.sampled_from([NEVER, 0]))
def test_many_retrievals_at_a_time_are_the_same_as_one_by_one(data: bytes, step: int, expire: int) -> None:
    results = []
    for together in (False, True):
        terms = Terms(tls_offered=False, plain_allowed=True, expire=expire)
        driver = Driver(FakeMaildrop(MESSAGES), terms=terms, together=together)
        driver.log_in()
        answer = driver.send(data, step)
        results.append((answer, driver.closed, driver.maildrop.committed, driver.session.statistics))
    assert results[0] == results[1]


def test_retrievals_are_taken_many_at_a_time_but_not_all() -> None:
    bob = Driver(FakeMaildrop(MESSAGES), together=True)
    bob.log_in()
    answer = bob.send(b"RETR 2\r\n" * (2 * MANY + 5) + b"RETR 3\r\nNOOP\r\nRETR 1")
    assert bob.several == [MANY, MANY, 4]
    assert answer.count(b"l3\r\n.\r\n") == 2 * MANY + 5
    assert answer.endswith(b"+OK 0 octets\r\n.\r\n+OK\r\n")


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_octets_are_borne(pieces: list[bytes]) -> None:
    driver = Driver(FakeMaildrop(MESSAGES))
    answer = b"".join(driver.send(piece) for piece in pieces)
    assert all(
        line.startswith((b"+OK", b"-ERR", b"+ ")) for line in answer.split(b"\r\n")[:-1] if b"CAPA" not in answer
    )


def test_what_logins_and_messages_are_subject_to_is_announced() -> None:
    driver = Driver(terms=Terms(plain_allowed=True, login_delay=300, expire=30))
    assert {b"LOGIN-DELAY 300", b"EXPIRE 30"} <= set(capabilities(driver))
    assert b"EXPIRE 0" in capabilities(Driver(terms=Terms(expire=0)))


def test_where_nothing_may_stay_what_was_retrieved_goes_at_quit() -> None:
    """RFC 2449 §6.7; TOP retrieves no message, and RSET brings none back that was."""
    driver = Driver(FakeMaildrop(MESSAGES), terms=Terms(plain_allowed=True, expire=0))
    driver.log_in()
    driver.send(b"RETR 1\r\nTOP 2 1\r\nRSET\r\nDELE 3\r\nRETR 4\r\nDELE 4\r\nQUIT\r\n")
    assert driver.maildrop.committed == [1, 3, 4]
    assert driver.session.statistics.deleted == 3


def test_a_timestamp_in_the_greeting_where_apop_can_work() -> None:
    assert Driver(terms=Terms(challenges=True)).greeting == b"+OK stubmail POP3 server ready <challenge-1@stubmail>\r\n"
    assert Driver().send(b"APOP bob c4c9334bac560ecc979e58001b3e22fb\r\n") == b"-ERR APOP is not available\r\n"


def test_mechanisms_are_taken_also_where_they_are_not_announced_for_all() -> None:
    driver = Driver(terms=Terms(challenges=True))
    assert driver.send(b"AUTH CRAM-MD5\r\n").startswith(b"+ ")
    assert driver.send(b"*\r\nAUTH SCRAM-SHA-256\r\n").endswith(b"+ \r\n")
    assert Driver().send(b"AUTH CRAM-MD5\r\n") == b"-ERR Unknown authentication mechanism\r\n"


@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from(["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"]))
def test_any_response_in_any_exchange_is_borne(responses: list[bytes], mechanism: str) -> None:
    driver = Driver(terms=Terms(plain_allowed=True, challenges=True))
    lines = b"".join(base64.b64encode(one) + b"\r\n" for one in responses)
    assert driver.send(b"AUTH " + mechanism.encode() + b"\r\n" + lines).startswith(b"+ ")
    assert not driver.session.logged_in
