"""The accounts file, [post_manager] of stub.conf, and the spool directory: what is wrong is said in one sentence."""

import os
import pwd
from pathlib import Path

import pytest

from services.post_manager import directory
from services.post_manager.policy import load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.posts import Terms
from stubmail.errors import Exit
from stubmail.settings import ConfigError, Domain, read, sample

DEFAULTS = Terms(quota_posts=10, quota_octets=1000, max_post=100, lifetime=30 * 86_400)
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
SPACED = "0123 4567 89AB CDEF 0123  4567 89AB CDEF 0123 4567"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "accounts.toml"


def test_an_account_is_found_by_fingerprint_and_address(file: Path) -> None:
    write(file, f'[accounts.alice]\naddress = "Alice@Alpha.Example"\nfingerprint = "{SPACED.lower()}"\n')
    accounts = load_accounts(file, DEFAULTS)
    account = accounts.find(FINGERPRINT, "alice@alpha.example")
    assert account is not None
    assert (account.name, account.terms) == ("alice", DEFAULTS)
    assert accounts.find(FINGERPRINT, "bob@alpha.example") is None
    assert accounts.find("F" * 40, "alice@alpha.example") is None
    assert len(accounts) == len(list(accounts)) == 1


def test_an_account_may_have_terms_of_its_own(file: Path) -> None:
    own = "quota_posts = 1\nquota_bytes = 2\nmax_post = 3\nlifetime_days = 4\n"
    write(file, f'[accounts.alice]\naddress = "a@b.example"\nfingerprint = "{FINGERPRINT}"\n{own}')
    [account] = load_accounts(file, DEFAULTS)
    assert account.terms == Terms(1, 2, 3, 4 * 86_400)
    write(file, file.read_text().replace("max_post = 3", "max_post = 101"))
    [account] = load_accounts(file, DEFAULTS)
    assert account.terms.max_post == 100  # never more than the store takes
    assert account.rate is None
    write(file, file.read_text() + "rate = 5\n")
    [account] = load_accounts(file, DEFAULTS)
    assert account.rate == 5


def test_who_has_an_account_is_seen_by_fingerprint_and_address(file: Path) -> None:
    write(file, f'[accounts.alice]\naddress = "Alice@Alpha.Example"\nfingerprint = "{FINGERPRINT}"\n')
    accounts = load_accounts(file, DEFAULTS)
    assert accounts.of(FINGERPRINT, "alice@ALPHA.example") is not None
    assert accounts.of(FINGERPRINT, "bob@alpha.example") is None
    assert accounts.of("F" * 40, "alice@alpha.example") is None


def test_a_file_without_accounts_is_good(file: Path) -> None:
    assert len(load_accounts(write(file, ""), DEFAULTS)) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "nothing but tables"),
        ("accounts = 1", "nothing but tables"),
        ("[accounts]\nalice = 1", "must be a table"),
        ('[accounts.a]\naddress = "a@b.example"', "fingerprint"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"', "address"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"\naddress = "nobody"', "not a mail address"),
        ('[accounts.a]\nfingerprint = "89ABCDEF"\naddress = "a@b.example"', "whole one"),
        (f'[accounts.a]\nfingerprint = "{"G" * 40}"\naddress = "a@b.example"', "whole one"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"\naddress = "a@b.example"\nquota = 1', "unknown key 'quota'"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"\naddress = "a@b.example"\nquota_posts = -1', "whole number"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"\naddress = "a@b.example"\nquota_posts = true', "whole number"),
        (f'[accounts.a]\nfingerprint = "{FINGERPRINT}"\naddress = "a@b.example"\nlifetime_days = 0', "whole number"),
        (
            "".join(f'[accounts.{n}]\nfingerprint = "{FINGERPRINT}"\naddress = "a@b.example"\n' for n in "ab"),
            "are the same",
        ),
        ("[accounts", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_accounts(write(file, text), DEFAULTS)
    assert says in error.value.text
    assert str(file) in error.value.text


def section(**values: object) -> PostManager:
    return read({"post_manager": {"accounts": "accounts.toml", **values}}, "post_manager", PostManager, {})


def test_the_defaults_are_those_of_the_protocol() -> None:
    settings = section()
    assert settings.spool == Path("/var/spool/stubmail")
    assert settings.database_url == "sqlite:////var/spool/stubmail/store.db"
    assert settings.terms == Terms(10_000, 2**30, 64 * 2**20, 30 * 86_400)
    assert settings.max_request == 128 * 2**20
    assert settings.host_of(Domain("alpha.example")) == "alpha.example"
    assert settings.host_of(Domain("alpha.example", "Post.Alpha.Example.")) == "post.alpha.example"
    assert section(host="x.example").host_of(Domain("alpha.example", "y.example")) == "x.example"
    assert "accounts = " in sample("post_manager", PostManager)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("listen", "8080"),
        ("udp_listen", "x:y"),
        ("admin_listen", "9465"),
        ("drain_seconds", 0),
        ("drain_notice_seconds", -1),
        ("host", "post.alpha.example:80"),
        ("prefix", ""),
        ("prefix", "/post"),
        ("prefix", "a/../b"),
        ("prefix", "a//b"),
        ("prefix", "a?b"),
        ("prefix", "a" * 256),
        ("workers", 0),
        ("threads", 257),
        ("max_request", 1),
        ("max_request", 2**25),
        ("max_post", 2**27),
        ("outbox_days", 29),
        ("rate_client", -1),
        ("trusted_proxies", ["proxy.example"]),
        ("udp", "off"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT" if key.endswith("listen") else key):
        section(**{key: value})


def test_the_largest_post_fits_into_the_largest_request() -> None:
    assert section(max_post=2**20, max_request=2**20 + 16_384).max_post == 2**20
    with pytest.raises(ConfigError, match="leaves room for posts of 1048575 octets: lower max_post, or raise max_req"):
        section(max_post=2**20, max_request=2**20 + 16_383)


def test_a_spool_directory_is_made_private(tmp_path: Path) -> None:
    incoming = directory.open_directory(tmp_path / "a" / "spool")
    assert incoming.parent.stat().st_mode & 0o777 == 0o700
    assert incoming.stat().st_mode & 0o777 == 0o700
    (incoming / "leftover").write_text("x")
    assert directory.clean(incoming) == 1
    assert directory.clean(incoming) == 0


def test_a_spool_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(Exit) as error:
        directory.open_directory(tmp_path)
    assert (error.value.status, f"chmod 700 {tmp_path}" in error.value.text) == (os.EX_CONFIG, True)


def name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def test_a_spool_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(Exit) as error:
        directory.open_directory(tmp_path)
    assert error.value.status == os.EX_NOPERM
    assert f"belongs to user {name_of(owner)}, but this process runs as user {name_of(owner + 1)};" in error.value.text


def test_a_file_is_no_spool_directory(tmp_path: Path) -> None:
    with pytest.raises(Exit) as error:
        directory.open_directory(write(tmp_path / "file", ""))
    assert error.value.status == os.EX_CONFIG
    with pytest.raises(Exit):
        directory.open_directory(tmp_path / "file" / "spool")
