"""Container health checks: asks a service in its own protocol whether it does its work.

python -m stubmail.health SERVICE        exit status 0: healthy, 1: not
"""

import http.client
import os
import poplib
import secrets
import smtplib
import socket
import sys
import time
from pathlib import Path
from typing import Any

from stubmail import datagram, settings

SECONDS = 4.0  # for one answer
HEARTBEAT_SECONDS = 60  # within which a puller begins a round


def post_manager(section: dict[str, Any]) -> None:
    """The store can reach its database, and its notifier answers a check with an unknown cookie."""
    if section["admin_listen"]:
        _get(section["admin_listen"], "/readyz")
    else:
        _get(section["listen"], "/", 404, 405)
    if section.get("udp", True):
        nonce = secrets.token_bytes(16)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(SECONDS)
            client.connect(_local(section["udp_listen"]))
            client.send(datagram.check_to_wire(secrets.token_bytes(16), nonce, secrets.token_bytes(32)))
            datagram.answer_from_wire(client.recv(1024), nonce, b"")


def keyserver(section: dict[str, Any]) -> None:
    """The key server answers a look-up."""
    _get(section["listen"], "/pks/lookup?op=index&options=mr&exact=on&search=nobody@invalid", 200, 404)


def smtp2stub(section: dict[str, Any]) -> None:
    """The gateway greets and takes commands; if its configuration names an admin listener, both its processes run."""
    if section.get("admin_listen"):
        _get(section["admin_listen"], "/readyz")
    with smtplib.SMTP(*_local(section["listen"]), timeout=SECONDS) as client:
        if client.ehlo("localhost")[0] != 250:
            raise OSError("EHLO was refused")


def pop3d(section: dict[str, Any]) -> None:
    """The POP3 server greets and takes commands."""
    client = poplib.POP3(*_local(section["listen"]), timeout=SECONDS)
    client.capa()
    client.quit()


def http2mbox(section: dict[str, Any]) -> None:
    """The puller listens to nobody; it touches a file whenever it begins a round."""
    age = time.time() - (Path(section["state"]) / "heartbeat").stat().st_mtime
    if age > HEARTBEAT_SECONDS:
        raise OSError(f"the last round began {age:.0f} seconds ago")


_CHECKS = {check.__name__: check for check in (post_manager, keyserver, smtp2stub, pop3d, http2mbox)}


def _local(listen: str) -> tuple[str, int]:
    """Where this container reaches itself: a wildcard address is loopback."""
    host, _, port = listen.rpartition(":")
    return ("127.0.0.1" if host in ("0.0.0.0", "[::]", "*") else host.strip("[]")), int(port)  # noqa: S104


def _get(listen: str, path: str, *good: int) -> None:
    connection = http.client.HTTPConnection(*_local(listen), timeout=SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status not in (good or (200,)):
        raise OSError(f"{path} answers with status {status}")


def main() -> int:
    """Check the service that the command line names, where stub.conf says it listens."""
    name = sys.argv[1]
    section = settings.load_file(settings.default_path())[name]
    prefix = f"STUBMAIL_{name}_".upper()
    section |= {key.removeprefix(prefix).lower(): value for key, value in os.environ.items() if key.startswith(prefix)}
    try:
        _CHECKS[name](section)
    except (OSError, poplib.error_proto, smtplib.SMTPException, http.client.HTTPException, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
