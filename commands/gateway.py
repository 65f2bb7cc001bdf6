"""What subcommands know of the gateway: single settings of its section, and what decides how its mail travels."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import click

from stubmail import settings
from stubmail.known_domains import DIRECTORY, KnownDomains
from stubmail.policies import Policies, load_policies
from stubmail.queue import DEFAULT_SPOOL
from stubmail.routing import Policy
from stubmail.settings import ConfigError

_SECTION = "smtp2stub"


@dataclass(frozen=True)
class Rules:
    """What decides, beside DNS, how mail travels; without a gateway: prefer stub mail, and a smarthost is there."""

    policies: Policies = field(default_factory=lambda: Policies(Policy.PREFER))
    known: KnownDomains | frozenset[str] = frozenset()
    smarthost: bool = True


def gateway_setting(config: Path, name: str) -> str:
    """Return one setting of [smtp2stub] as a text, the environment's first; "" when it or the file is not there.

    The rest of the section need not be complete. Raises ConfigError when the file cannot be read.
    """
    value = os.environ.get(f"STUBMAIL_{_SECTION}_{name}".upper())
    if value is None:
        try:
            table = settings.load_file(config).get(_SECTION)
        except settings.MissingConfig:
            return ""
        value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, str) else ""


def gateway_rules(config: Path) -> Rules:
    """Return the rules of the gateway that stub.conf describes. Raises ConfigError."""
    if not gateway_setting(config, "users"):
        return Rules()
    path = gateway_setting(config, "policies")
    try:
        policy = Policy(gateway_setting(config, "policy") or Policy.PREFER)
    except ValueError as error:
        raise ConfigError(f"[{_SECTION}] policy: {error}") from error
    return Rules(
        load_policies(Path(path) if path else None, policy),
        KnownDomains(spool(config) / DIRECTORY),
        bool(gateway_setting(config, "smarthost")),
    )


def spool(config: Path) -> Path:
    """Return the gateway's spool directory. Raises ConfigError."""
    return Path(gateway_setting(config, "spool") or DEFAULT_SPOOL)


def spool_option(function: click.decorators.FC) -> click.decorators.FC:
    """Add --spool; the command receives ``spool``, None for the configured one."""
    return click.option(
        "--spool", type=click.Path(path_type=Path), help="The gateway's spool; default: the configured one."
    )(function)
