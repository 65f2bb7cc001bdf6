"""Users of the machine: who may log in at all, whose files are theirs, and refusals that take equally long."""

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.system import people
from services.pop3d.system.people import Person
from services.pop3d.system.refusals import LONGEST, EqualTimes
from stubmail.errors import PermanentError
from stubmail.settings import ConfigError


@pytest.fixture
def me(tmp_path: Path) -> Person:
    return Person("alice", os.geteuid(), os.getegid(), (), str(tmp_path))


@pytest.mark.parametrize(
    "name", [b"root", b"", b".", b"..", b"a/b", b"../root", b"a b", b"a\nb", b"a\0", b"\xc3\xa9", b"x" * 65, b"none"]
)
def test_who_is_nobody(name: bytes) -> None:
    assert people.find(name, 1) is None


def test_root_is_nobody_however_small_the_least_uid() -> None:
    assert people.find(b"root", 0) is None
    assert people.find(b"root", -1) is None


def test_a_user_and_its_groups() -> None:
    entry = pwd.getpwnam("nobody")
    found = people.find(b"nobody", 1000)
    assert found is not None
    assert (found.name, found.uid, found.gid) == ("nobody", entry.pw_uid, entry.pw_gid)
    assert entry.pw_gid in found.groups
    assert people.find(b"nobody", entry.pw_uid + 1) is None


DOMAINS = frozenset({"alpha.example", "xn--mnchen-3ya.example"})


@pytest.mark.parametrize(
    "login",
    [
        "alice",
        "alice@alpha.example",
        "alice@Alpha.EXAMPLE",
        "alice@alpha.example.",
        "alice@m\u00fcnchen.example",
        "alice@xn--mnchen-3ya.example",
    ],
)
def test_an_address_in_one_of_the_domains_is_the_users_name(login: str) -> None:
    assert people.unix_name(login.encode(), DOMAINS) == b"alice"


@pytest.mark.parametrize(
    "login",
    [
        b"",
        b"@",
        b"alice@",
        b"@alpha.example",
        b"alice@beta.example",
        b"alice@sub.alpha.example",
        b"alice@alpha.example\0",
        b"alice@alpha.example..",
        b"alice@alpha.example@beta.example",
        b"alice@\xff",
        b"alice@[192.0.2.1]",
        b"alice@" + b"\xc3\xbc" * 6000,
    ],
)
def test_any_other_name_stays_as_it_is(login: bytes) -> None:
    assert people.unix_name(login, DOMAINS) == login
    assert people.unix_name(b"alice@alpha.example", frozenset()) == b"alice@alpha.example"


@given(st.binary(max_size=40), st.binary(max_size=40) | st.sampled_from([b"alpha.example", b"beta.example"]))
def test_no_name_is_made_that_was_not_in_front(local: bytes, domain: bytes) -> None:
    login = local + b"@" + domain
    assert people.unix_name(login, DOMAINS) in (login, login.rpartition(b"@")[0])


@pytest.mark.parametrize(
    ("template", "place", "at_home"),
    [
        ("mbox:/var/mail/%u", "mbox:/var/mail/alice", False),
        ("maildir:/srv/%u/mail", "maildir:/srv/alice/mail", False),
        ("maildir:~/Maildir", "maildir:HOME/Maildir", True),
        ("mbox:~/mail/%u", "mbox:HOME/mail/alice", True),
    ],
)
def test_where_mail_is(me: Person, template: str, place: str, at_home: bool) -> None:
    people.check_template(template)
    assert people.location(template, me) == place.replace("HOME", me.home)
    assert people.at_home(template) == at_home


@pytest.mark.parametrize(
    "template", ["", "mbox:", "mbox:%u", "mbox:/var/mail/all", "/var/mail/%u", "mh:/m/%u", "mbox:~", "mbox:~root/%u"]
)
def test_what_says_not_for_every_user_where_mail_is(template: str) -> None:
    with pytest.raises(ConfigError, match="system_maildrop"):
        people.check_template(template)


def test_own_files_and_none_are_fine(me: Person, tmp_path: Path) -> None:
    people.check_own(f"mbox:{tmp_path / 'none'}", me)
    (tmp_path / "mbox").write_bytes(b"")
    people.check_own(f"mbox:{tmp_path / 'mbox'}", me)
    for name in ("new", "cur", "tmp"):
        (tmp_path / "md" / name).mkdir(parents=True)
    people.check_own(f"maildir:{tmp_path / 'md'}", me)


def test_links_and_other_kinds_are_refused(me: Person, tmp_path: Path) -> None:
    (tmp_path / "mbox").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "mbox")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        with pytest.raises(PermanentError):
            people.check_own(f"mbox:{tmp_path / name}", me)
    (tmp_path / "elsewhere").mkdir()
    for name in ("new", "tmp"):
        (tmp_path / "md" / name).mkdir(parents=True)
    (tmp_path / "md" / "cur").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentError):
        people.check_own(f"maildir:{tmp_path / 'md'}", me)


def test_others_files_are_refused(me: Person, tmp_path: Path) -> None:
    (tmp_path / "mbox").write_bytes(b"")
    other = Person("eve", me.uid + 1, me.gid, (), me.home)
    with pytest.raises(PermanentError, match="another user"):
        people.check_own(f"mbox:{tmp_path / 'mbox'}", other)


def test_a_quick_refusal_waits_for_as_long_as_a_slow_one_took() -> None:
    times = EqualTimes()
    assert times.wait(0.3) == 0
    assert times.wait(0.1) + 0.1 == pytest.approx(0.3, rel=0.05)
    assert times.wait(0.3) == pytest.approx(0, abs=0.02)


def test_a_slow_hour_is_forgotten_and_nobody_waits_for_ever() -> None:
    times = EqualTimes()
    times.wait(1000.0)
    assert times.wait(0.0) <= LONGEST
    for _ in range(500):
        last = times.wait(0.01)
    assert last < 0.01
