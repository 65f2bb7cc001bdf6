"""stub.conf: TOML sections read into dataclasses, overridden by the environment, with a sample that cannot rot.

A section is a frozen dataclass whose fields carry their meaning: ``listen: str = setting("127.0.0.1:25", "where …")``.
The same declaration gives the default, the type check, the sample and the error text.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from stubmail.address import AddressError, parse_domain
from stubmail.errors import Exit

Section = TypeVar("Section")

KNOWN_SECTIONS = ("domain", "dns", "post_manager", "smtp2stub", "http2mbox", "pop3d", "keyserver")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    list: "a list of texts",
}


class ConfigError(Exit):
    """The configuration is missing or wrong: exit status 78 and one sentence that says what to change."""

    def __init__(self, text: str) -> None:
        super().__init__(os.EX_CONFIG, text)


class MissingConfig(ConfigError):
    """There is no configuration file at all: the caller shows a sample."""


def setting(
    default: Any = dataclasses.MISSING, doc: str = "", *, proposal: Callable[[], str | None] | None = None
) -> Any:
    """Declare one setting; without a default it must be given. ``doc`` says what it means, with its unit.

    ``proposal`` returns what the sample has instead of a default that would not do for whoever reads it, if so.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "proposal": proposal})


def items(default: list[str], doc: str = "") -> Any:
    """Declare a setting that is a list of texts."""
    return dataclasses.field(default_factory=lambda: list(default), metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class Domain:
    """[domain]: whose mail this is."""

    name: str = setting(doc="the mail domain, the part behind the @")
    host: str = setting("", "the host name that the domain's DNS records give; default: the domain's own name")

    def __post_init__(self) -> None:
        """Raise ConfigError for what is no name."""
        check_name("domain", "name", self.name)
        check_name("domain", "host", self.host)


@dataclasses.dataclass(frozen=True)
class Dns:
    """[dns]: how other domains are found."""

    resolver: str = setting("", "ADDRESS:PORT of the resolver to ask; default: those of /etc/resolv.conf")
    timeout_seconds: float = setting(5.0, "how long one question may take, all tries together")
    allow_private: bool = setting(False, "follow records to loopback and private addresses: for demos and tests only")

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        if self.timeout_seconds <= 0:
            raise ConfigError("[dns] timeout_seconds must be more than 0")


def check_name(section: str, key: str, name: str) -> None:
    """Raise ConfigError when a setting, if it is given at all, is not a domain name."""
    try:
        _ = name and parse_domain(name)
    except AddressError as error:
        raise ConfigError(f"[{section}] {key}: {error}") from error


def default_path() -> Path:
    """Where stub.conf is looked for when no --config is given: $STUB_CONF, else ~/.stub/stub.conf."""
    path = Path(os.environ.get("STUB_CONF") or "~/.stub/stub.conf")
    with contextlib.suppress(RuntimeError):  # this uid has no home: the name as it stands will not be found
        path = path.expanduser()
    return path


def load_file(path: Path) -> dict[str, Any]:
    """Read one TOML file. Raises MissingConfig when it is not there, ConfigError when it cannot be read or parsed."""
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise MissingConfig(f"there is no configuration file {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also: not UTF-8, a number too long to convert
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return data


def read(data: Mapping[str, Any], name: str, cls: type[Section], environ: Mapping[str, str] = os.environ) -> Section:
    """Read section ``name`` of parsed TOML into ``cls``; ``STUBMAIL_<SECTION>_<KEY>`` in the environment wins.

    ``STUBMAIL_<SECTION>_<KEY>__FILE`` names a file whose content, less a final newline, is the value: for secrets.
    Raises ConfigError for a section or key that does not exist, a value of the wrong type, or a missing one.
    """
    for section in data:
        if section not in KNOWN_SECTIONS:
            raise ConfigError(f"unknown section [{section}]; known are {', '.join(KNOWN_SECTIONS)}")
    table = data.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"[{name}] must be a section")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(fields)):
        raise ConfigError(f"unknown setting {unknown[0]!r} in [{name}]; known are {', '.join(fields)}")
    values: dict[str, Any] = {}
    for key, field in fields.items():
        variable = f"STUBMAIL_{name}_{key}".upper()
        text = _from_environment(variable, environ)
        given = table.get(key) if text is None else text
        if given is None or (given == "" and _is_required(field)):
            if _is_required(field):
                raise ConfigError(f"[{name}] {key} is missing: {field.metadata['doc']}")
        elif text is None:
            values[key] = _checked(given, hints[key], f"[{name}] {key}")
        else:
            values[key] = _from_text(text, hints[key], variable)
    return cls(**values)


def sample(name: str, cls: type[Any]) -> str:
    """Return section ``name`` as TOML with every setting, its meaning and its default; required ones stand empty."""
    lines = [f"[{name}]"]
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        lines.append(f"# {field.metadata['doc']}")
        proposal = field.metadata.get("proposal")
        if proposal is not None and (proposed := proposal()) is not None:
            lines.append(f"{field.name} = {_toml(proposed)}")
        elif _is_required(field):
            lines.append(f"{field.name} = {_empty(hints[field.name])}")
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            lines.append(f"#{field.name} = {_toml(default)}")
    return "\n".join(lines) + "\n"


def _from_environment(variable: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(variable + "__FILE")
    if path is None:
        return environ.get(variable)
    try:
        return Path(path).read_text().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{variable}__FILE names {path}, which cannot be read: {error}") from error


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_optional(hint: Any) -> bool:
    """Whether None is a value, which is written as an empty text."""
    return type(None) in typing.get_args(hint)


def _base(hint: Any) -> Any:
    """The plain type behind a hint: list[str] is list, Path | None is Path."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return origin or hint


def _checked(value: Any, hint: Any, where: str) -> Any:
    base = _base(hint)
    if value == "" and _is_optional(hint):
        return None
    accepted: tuple[type, ...] = {Path: (str,), float: (int, float)}.get(base, (base,))
    good = isinstance(value, accepted)
    if isinstance(value, bool) and base is not bool:
        good = False
    if base is list and good:
        good = all(isinstance(item, str) for item in value)
    if base is float and good:
        good = math.isfinite(value)
    if not good:
        raise ConfigError(f"{where} must be {_NAMES[base]}, not {value!r}")
    return base(value) if base in (Path, float) else value


def _from_text(text: str, hint: Any, variable: str) -> Any:
    base = _base(hint)
    if text == "" and _is_optional(hint):
        return None
    if base is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if base is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{variable} must be true or false, not {text!r}")
        return text.lower() in ("true", "1")
    if base in (int, float) and not _NUMBER.fullmatch(text):  # Python's own would take 1_0 and Arabic digits
        raise ConfigError(f"{variable} must be {_NAMES[base]}, not {text!r}")
    try:
        return base(text)
    except ValueError:
        raise ConfigError(f"{variable} must be {_NAMES[base]}, not {text!r}") from None


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, int | float):
        return str(value)
    return json.dumps("" if value is None else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _empty(hint: Any) -> str:
    return {list: "[]", int: "0", float: "0.0", bool: "false"}.get(_base(hint), '""')
