"""stub.conf: types, overrides, the sample that can be read back, and sentences instead of tracebacks."""

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.settings import (
    ConfigError,
    Dns,
    Domain,
    MissingConfig,
    default_path,
    items,
    load_file,
    read,
    sample,
    setting,
)


@dataclasses.dataclass(frozen=True)
class Pop3d:
    """A section with every kind of setting."""

    users: Path = setting(doc="the users file")
    threads: int = setting(doc="how many")
    listen: str = setting("127.0.0.1:110", "HOST:PORT")
    sessions: int = setting(4000, "how many sessions")
    idle_seconds: float = setting(600.0, "how long")
    allow_plain: bool = setting(False, "take passwords without TLS")
    spool: Path = setting(Path("/var/spool/x"), "a directory")
    tls_cert: Path | None = setting(None, "the certificate (PEM)")
    banner: str = setting('quote " back \\ slash', "what is said first")
    names: list[str] = items(["a", "b c"], "names")


GIVEN = {"users": "users.toml", "threads": 3}


def section(environ: dict[str, str] | None = None, /, **values: Any) -> Pop3d:
    return read({"pop3d": GIVEN | values}, "pop3d", Pop3d, environ or {})


def refusal(environ: dict[str, str] | None = None, /, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        section(environ, **values)
    assert caught.value.status == 78
    assert not isinstance(caught.value, MissingConfig)
    return caught.value.text


# Files


def test_the_file_is_named_by_stub_conf_or_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.delenv("STUB_CONF", raising=False)
    assert default_path() == Path("/home/alice/.stub/stub.conf")
    monkeypatch.setenv("STUB_CONF", "/etc/stub.conf")
    assert default_path() == Path("/etc/stub.conf")


def test_a_user_without_a_home_gets_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("STUB_CONF", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert default_path() == Path("~/.stub/stub.conf")


def test_a_missing_file_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(MissingConfig, match="there is no configuration file"):
        load_file(tmp_path / "stub.conf")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_file(tmp_path)


@given(st.binary())
@example(b"x = \xff")
@example(b"x = " + b"[" * 5000)
@example(b"x = " + b"1" * 5000)
def test_any_octets_are_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_bytes(data)
    try:
        assert isinstance(load_file(path), dict)
    except ConfigError as error:
        assert error.text.isprintable()


# Values


def test_given_values_and_defaults() -> None:
    assert section(idle_seconds=30) == Pop3d(users=Path("users.toml"), threads=3, idle_seconds=30.0)
    assert isinstance(section(idle_seconds=30).idle_seconds, float)
    assert section(tls_cert="cert.pem", names=[]).tls_cert == Path("cert.pem")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("users", 1, "[pop3d] users must be a path"),
        ("threads", "3", "[pop3d] threads must be a whole number"),
        ("threads", 3.0, "[pop3d] threads must be a whole number"),
        ("threads", True, "[pop3d] threads must be a whole number"),
        ("idle_seconds", "x", "[pop3d] idle_seconds must be a number"),
        ("idle_seconds", True, "[pop3d] idle_seconds must be a number"),
        ("idle_seconds", math.inf, "[pop3d] idle_seconds must be a number"),
        ("idle_seconds", math.nan, "[pop3d] idle_seconds must be a number"),
        ("allow_plain", 1, "[pop3d] allow_plain must be true or false"),
        ("listen", ["x"], "[pop3d] listen must be text"),
        ("tls_cert", 1, "[pop3d] tls_cert must be a path"),
        ("names", "a", "[pop3d] names must be a list of texts"),
        ("names", ["a", 1], "[pop3d] names must be a list of texts"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(key: str, value: Any, wanted: str) -> None:
    assert refusal(**{key: value}).startswith(wanted)


def test_unknown_settings_and_sections_are_refused_by_name() -> None:
    assert "unknown setting 'lisen' in [pop3d]" in refusal(lisen="x")
    with pytest.raises(ConfigError, match=r"unknown section \[pop3\]"):
        read({"pop3d": GIVEN, "pop3": {}}, "pop3d", Pop3d, {})
    with pytest.raises(ConfigError, match=r"\[pop3d\] must be a section"):
        read({"pop3d": 3}, "pop3d", Pop3d, {})


@pytest.mark.parametrize("data", [{}, {"pop3d": {}}, {"pop3d": {"users": ""}}, {"dns": {}}])
def test_a_required_setting_cannot_be_left_out_or_empty(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\[pop3d\] users is missing: the users file"):
        read(data, "pop3d", Pop3d, {})


def test_the_current_directory_is_a_value() -> None:
    assert section(users=".").users == Path()


def test_a_missing_section_means_its_defaults() -> None:
    assert read({}, "dns", Dns, {}) == Dns()


# The environment


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("threads", "7", 7),
        ("idle_seconds", "2.5", 2.5),
        ("idle_seconds", "2", 2.0),
        ("allow_plain", "true", True),
        ("allow_plain", "0", False),
        ("listen", "", ""),
        ("tls_cert", "", None),
        ("tls_cert", "c.pem", Path("c.pem")),
        ("names", " x , y,", ["x", "y"]),
        ("users", "/etc/u", Path("/etc/u")),
    ],
)
def test_the_environment_wins(key: str, text: str, value: Any) -> None:
    assert getattr(section({f"STUBMAIL_POP3D_{key.upper()}": text}), key) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("threads", "x"),
        ("threads", "1_0"),
        ("threads", "\u0663"),
        ("threads", "1.5"),
        ("threads", "9" * 5000),
        ("idle_seconds", "nan"),
        ("idle_seconds", "inf"),
        ("allow_plain", "yes"),
        ("allow_plain", ""),
    ],
)
def test_the_environment_is_checked_too(key: str, text: str) -> None:
    variable = f"STUBMAIL_POP3D_{key.upper()}"
    assert refusal({variable: text}).startswith(f"{variable} must be ")


def test_an_empty_variable_is_no_required_value() -> None:
    assert "[pop3d] users is missing" in refusal({"STUBMAIL_POP3D_USERS": ""})


def test_the_environment_alone_is_enough() -> None:
    environ = {"STUBMAIL_DOMAIN_NAME": "alpha.example", "STUBMAIL_POP3D_LISTEN": "x"}
    assert read({}, "domain", Domain, environ) == Domain("alpha.example")


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" s3cret \n\n")
    environ = {
        "STUBMAIL_POP3D_BANNER__FILE": str(tmp_path / "secret"),
        "STUBMAIL_POP3D_BANNER": "not this one",
    }
    assert section(environ).banner == " s3cret \n", "only one final newline goes"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_secret_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    text = refusal({"STUBMAIL_POP3D_BANNER__FILE": str(tmp_path / "secret")})
    assert text.startswith("STUBMAIL_POP3D_BANNER__FILE names ")


# The sample


def uncommented(text: str) -> dict[str, Any]:
    """Parse a sample with every commented setting (but not the sentences) made live."""
    lines = [line.removeprefix("#") if line.startswith("#") and line[1:2] != " " else line for line in text.split("\n")]
    return tomllib.loads("\n".join(lines))


def test_the_sample_is_toml_as_it_stands() -> None:
    assert tomllib.loads(sample("pop3d", Pop3d)) == {"pop3d": {"users": "", "threads": 0}}


@pytest.mark.parametrize(("name", "cls"), [("pop3d", Pop3d), ("domain", Domain), ("dns", Dns)])
def test_the_sample_uncommented_gives_the_defaults(name: str, cls: type[Any]) -> None:
    data = uncommented(sample(name, cls))
    fields = dataclasses.fields(cls)
    assert list(data[name]) == [field.name for field in fields]
    required = {
        field.name: {"users": "u", "threads": 1, "name": "alpha.example"}[field.name]
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    assert read({name: data[name] | required}, name, cls, {}) == read({name: required}, name, cls, {})


def test_the_sample_says_what_each_setting_means() -> None:
    text = sample("pop3d", Pop3d)
    assert '# the users file\nusers = ""\n' in text
    assert '# HOST:PORT\n#listen = "127.0.0.1:110"\n' in text
    assert text.endswith("\n")


def test_a_sample_that_is_not_filled_in_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[domain\] name is missing"):
        read(tomllib.loads(sample("domain", Domain)), "domain", Domain, {})


@given(st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_any_default_survives_the_sample(text: str, number: int, real: float, flag: bool) -> None:
    fields = [("text", text), ("number", number), ("real", real), ("flag", flag), ("path", Path(text or "."))]
    spec = [(name, type(value) if name != "path" else Path, setting(value, "x")) for name, value in fields]
    cls = dataclasses.make_dataclass("Any", [*spec, ("texts", list[str], items([text, text], "x"))], frozen=True)
    assert read({"dns": uncommented(sample("dns", cls))["dns"]}, "dns", cls, {}) == cls()


@pytest.mark.parametrize(
    ("name", "section", "table", "words"),
    [
        ("domain", Domain, {"name": "two words"}, "name: 'two words' is not a domain name"),
        ("domain", Domain, {"name": "a.example", "host": "post.a.example:80"}, "host: 'post.a.example:80' is not"),
        ("dns", Dns, {"timeout_seconds": 0}, "timeout_seconds must be more than 0"),
        ("dns", Dns, {"timeout_seconds": -1.0}, "timeout_seconds must be more than 0"),
    ],
)
def test_names_and_times_that_cannot_be_meant_are_refused(
    name: str, section: type[Any], table: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"\[{name}\] {words}"):
        read({name: table}, name, section, {})
