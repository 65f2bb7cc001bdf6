"""[smtp2stub]: every wrong setting is named, and the sample suits whoever asks for it."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.smtp2stub import settings as module
from services.smtp2stub.settings import Smtp2stub
from stubmail.queue import DEFAULT_SPOOL
from stubmail.settings import ConfigError, read, sample


def section(**values: Any) -> Smtp2stub:
    found = read({"smtp2stub": {"users": "/users.toml", **values}}, "smtp2stub", Smtp2stub, {})
    found.validate()
    return found


def test_the_defaults_are_valid() -> None:
    assert section().listen == "127.0.0.1:587"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"listen": ""}, "listen"),
        ({"listen": "587"}, "listen: '587' is not HOST:PORT"),
        ({"admin_listen": "here"}, "admin_listen: 'here' is not HOST:PORT"),
        ({"tls_listen": "127.0.0.1:465"}, "tls_listen needs tls_cert"),
        ({"tls_listen": ":465"}, "tls_listen: ':465'"),
        ({"tls_cert": "/c"}, "tls_cert and tls_key must be given both"),
        ({"tls_key": "/c"}, "tls_cert and tls_key must be given both"),
        ({"policy": "maybe"}, "require, prefer, never"),
        ({"smarthost": "a b"}, "smarthost: 'a b'"),
        ({"smarthost_tls": "yes"}, "none, starttls or tls"),
        ({"smarthost_user": "alice"}, "smarthost_user and smarthost_password_file"),
        ({"smarthost_password_file": "/p"}, "smarthost_user and smarthost_password_file"),
        (
            {"smarthost_user": "a", "smarthost_password_file": "/p", "smarthost_tls": "none"},
            "a password for the smarthost needs smarthost_tls",
        ),
        ({"size_limit": 0}, "size_limit must be 1 or more"),
        ({"recipient_limit": 0}, "recipient_limit must be 1 or more"),
        ({"recipient_limit": 10**9}, "recipient_limit must be"),
        ({"connection_limit": 0}, "connection_limit must be 1 or more"),
        ({"connection_limit_per_address": 0}, "connection_limit_per_address must be 1 or more"),
        ({"timeout_seconds": 0}, "timeout_seconds must be more than 0"),
        ({"retry_min_seconds": 0}, "retry_min_seconds must be more than 0"),
        ({"retry_max_seconds": 1}, "retry_max_seconds must not be less than retry_min_seconds"),
        ({"queue_lifetime_days": 0}, "queue_lifetime_days must be more than 0"),
        ({"delay_notice_hours": -1}, "delay_notice_hours must be 0 or more"),
        ({"failure_delay_seconds": -1}, "failure_delay_seconds must be 0 or more"),
        ({"failure_delay_longest": -1}, "failure_delay_longest must be 0 or more"),
        ({"pipe_seconds": 0}, "pipe_seconds must be more than 0"),
        ({"drain_seconds": -1}, "drain_seconds must be 0 or more"),
        ({"reserve_bytes": -1}, "reserve_bytes must be 0 or more"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(**values)
    assert caught.value.text.startswith("[smtp2stub] ")
    assert words in caught.value.text


def test_the_sample_proposes_what_the_user_may_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lowest = tmp_path / "lowest"
    lowest.write_text("1024\n")
    monkeypatch.setattr(module, "_LOWEST_PORT", lowest)
    monkeypatch.setenv("STUB_CONF", str(tmp_path / "stub.conf"))
    for euid, writable, listen, spool in (
        (1000, False, "127.0.0.1:1587", str(tmp_path / "spool")),
        (0, True, None, None),
    ):
        monkeypatch.setattr(os, "geteuid", lambda euid=euid: euid)
        monkeypatch.setattr(os, "access", lambda path, mode, writable=writable: writable)
        shown = tomllib.loads(sample("smtp2stub", Smtp2stub))["smtp2stub"]
        assert (shown.get("listen"), shown.get("spool")) == (listen, spool)
        assert section(**{**shown, "users": "/users.toml"}).spool == Path(spool or DEFAULT_SPOOL)
    lowest.write_text("0\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "listen" not in tomllib.loads(sample("smtp2stub", Smtp2stub))["smtp2stub"]
