"""Serves a WSGI application with gunicorn inside this process: no configuration file, our log lines, no side doors.

*Listens* on one TCP socket that the caller has bound, so that a port in use is the caller's one-sentence error.
"""

import logging
import os
import resource
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.glogging import Logger

from stubmail.listener import bind as bind  # here as well, for those who serve
from stubmail.wsgi_drain import Draining, DrainingArbiter
from stubmail.wsgi_later import WsgiApp as WsgiApp  # here as well
from stubmail.wsgi_worker import PatientWorker

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where workers' heartbeats cost no disk, read-only root or not


def serve(
    make_app: Callable[[], WsgiApp],
    listener: socket.socket,
    *,
    draining: Draining | None = None,
    notice: float = 0.0,
    **settings: Any,
) -> NoReturn:
    """Serve what ``make_app`` returns, called once in each worker process, until SIGTERM; then exit with status 0.

    SIGHUP starts new workers, which call ``make_app`` anew, and lets the old ones finish. ``settings`` are gunicorn's
    and go over the defaults: one worker process with 8 threads that stalling clients cannot hold, 30 seconds to drain.
    ``draining`` becomes true with SIGTERM, in all workers, and ``notice`` seconds later no connection is accepted any
    more. The listener is gunicorn's from here on.
    """
    draining = Draining() if draining is None else draining  # not "or": it is false, for now
    DrainingArbiter(_Server(make_app, listener.detach(), settings), draining, notice).run()
    raise SystemExit(os.EX_OK)


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, make_app: Callable[[], WsgiApp], descriptor: int, settings: Mapping[str, Any]) -> None:
        self._make_app = make_app
        self._settings = {
            "bind": f"fd://{descriptor}",
            "worker_class": PatientWorker,
            "workers": 1,
            "threads": 8,
            # As many again are left for files and for the database.
            "worker_connections": min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2),
            "timeout": 60,
            "graceful_timeout": 30,
            "logger_class": _Log,
            "loglevel": "warning",
            "control_socket_disable": True,
            "forwarded_allow_ips": "",  # no proxy is believed, and nobody may switch to HTTP/2
            "worker_tmp_dir": str(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None,
            **settings,
        }
        super().__init__()

    def load_config(self) -> None:
        """Take the settings given, and nothing from the environment (gunicorn would read GUNICORN_CMD_ARGS)."""
        config: Config = self.cfg
        for name, value in self._settings.items():
            if name in config.settings:  # an older gunicorn lacks the newest ones
                config.set(name, value)

    def load(self) -> WsgiApp:
        return self._make_app()


class _Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's own messages as lines of our log, and no access log: the services log events."""

    def setup(self, cfg: Config) -> None:
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def access(self, *_: object) -> None:
        pass
