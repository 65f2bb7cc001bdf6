"""How a subcommand gets at the configuration: it is read when the subcommand runs, so that --help needs none."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import click

from services.post_manager import service
from services.post_manager.settings import PostManager

P = ParamSpec("P")


def pass_section(function: Callable[Concatenate[PostManager, P], None]) -> Callable[P, None]:
    """Call a subcommand with [post_manager] of the file that --config names. Raises ConfigError, for one_sentence."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        section, _ = service.read(click.get_current_context().obj)
        function(section, *args, **kwargs)

    return wrapper
