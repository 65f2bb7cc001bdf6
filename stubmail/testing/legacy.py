"""A plain SMTP server that takes all mail for its domain and appends it to one mbox: a legacy domain for tests.

*Listens* on the given address, loopback as a rule. *Holds* nothing. *Trusts* everybody: never for real use.
"""

import asyncio
import secrets
import signal
import sys
import time
from pathlib import Path

import click
from aiosmtpd.smtp import SMTP, Envelope, Session

from stubmail import cli
from stubmail.errors import StubmailError
from stubmail.mbox import Delivery, Mbox

MAX_MESSAGE = 64 * 2**20  # octets


class _Sink:
    """Accepts recipients of one domain; says 250 once the message is on disk."""

    def __init__(self, domain: str, mbox: Mbox) -> None:
        self._domain = domain
        self._mbox = mbox

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not address.lower().endswith("@" + self._domain):
            return "550 5.7.1 no such domain here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        delivery = Delivery(secrets.token_hex(16), envelope.mail_from or "", int(time.time()), content)
        try:
            await asyncio.to_thread(self._mbox.deliver, [delivery])
        except StubmailError as error:
            return f"451 {error.code} {error.text}"
        return "250 2.0.0 OK"


async def _serve(host: str, port: int, domain: str, mbox: Mbox) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    sink = _Sink(domain, mbox)
    try:
        server = await loop.create_server(
            lambda: SMTP(sink, data_size_limit=MAX_MESSAGE, decode_data=False, enable_SMTPUTF8=True, loop=loop),
            host,
            port,
        )
    except OSError as error:
        raise cli.listening_error(error, host, port) from error
    async with server:
        await stopped.wait()


@click.command(help=__doc__)
@click.option("--listen", required=True, help="HOST:PORT")
@click.option("--domain", required=True, help="The domain whose mail it takes.")
@click.option("--mbox", "path", required=True, type=click.Path(path_type=Path), help="Where the mail goes.")
@cli.one_sentence
def main(listen: str, domain: str, path: Path) -> None:
    cli.log.setup()
    host, port = cli.parse_listen(listen)
    asyncio.run(_serve(host, port, domain, Mbox(path)))


if __name__ == "__main__":
    sys.exit(main())
