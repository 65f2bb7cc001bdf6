"""TLS without I/O: both ends in memory, records cut anywhere."""

import ssl
from pathlib import Path

import pytest

from services.pop3d.tls import RECORD, TlsLayer, load_certificate
from stubmail.settings import ConfigError
from tests.support.pop3d import CERT, KEY, TLS


class TlsClient:
    """The other end."""

    def __init__(self, layer: TlsLayer, step: int, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.create_default_context(cafile=CERT)
        context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.layer = layer
        self.step = step

    def shake_hands(self) -> bytes:
        """Return what the layer took for content meanwhile."""
        content = b""
        while True:
            try:
                self.object.do_handshake()
                return content + self.flush()
            except ssl.SSLWantReadError:
                content += self.flush()

    def flush(self) -> bytes:
        """Carry records to the layer and its own back; return the content that it got."""
        records, content = self._outgoing.read(), b""
        for at in range(0, len(records), self.step):
            content += self.layer.receive(records[at : at + self.step])
            self._incoming.write(self.layer.flush())
        return content

    def send(self, content: bytes) -> bytes:
        self.object.write(content)
        return self.flush()

    def read(self, records: bytes) -> bytes:
        self._incoming.write(records)
        content = b""
        try:
            while data := self.object.read(65536):
                content += data
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return content


def layer() -> TlsLayer:
    context = load_certificate(CERT, KEY)
    assert context is not None
    return TlsLayer(context)


@pytest.mark.parametrize("step", [1, 100, 100_000])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_octets_go_both_ways_however_the_records_are_cut(step: int, version: ssl.TLSVersion) -> None:
    client = TlsClient(layer(), step, version)
    assert client.shake_hands() == b""
    assert client.layer.established
    assert client.send(b"CAPA\r\n") == b"CAPA\r\n"
    large = bytes(range(256)) * (3 * RECORD // 256) + b"end"
    assert client.read(client.layer.send(large)) == large
    assert client.read(client.layer.send(b"")) == b""


def test_both_ends_may_say_that_nothing_follows() -> None:
    client = TlsClient(layer(), 100)
    client.shake_hands()
    assert client.send(b"QUIT\r\n") == b"QUIT\r\n"
    with pytest.raises(ssl.SSLWantReadError):
        client.object.unwrap()
    assert client.flush() == b""
    assert client.layer.closed
    assert client.read(client.layer.send(b"+OK\r\n") + client.layer.close()) == b"+OK\r\n"


@pytest.mark.parametrize(
    "data", [b"CAPA\r\n" * 10, b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\x80\x2e\x01\x00\x02" + b"\0" * 60]
)
def test_what_is_no_tls_is_refused(data: bytes) -> None:
    one = layer()
    with pytest.raises(ssl.SSLError):
        one.receive(data)
    assert not one.established


def test_old_versions_are_refused() -> None:
    one = layer()
    context = ssl.create_default_context(cafile=CERT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    hello = bytearray(ssl_hello(context))
    hello[9:11] = b"\x03\x01"  # TLS 1.0 as the highest version of the ClientHello
    with pytest.raises(ssl.SSLError):
        one.receive(bytes(hello))


def ssl_hello(context: ssl.SSLContext) -> bytes:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_no_certificate_is_none() -> None:
    assert load_certificate(None, None) is None


@pytest.mark.parametrize(
    ("cert", "key", "text"),
    [
        (CERT, None, "belong together"),
        (None, KEY, "belong together"),
        (Path("/nowhere/cert.pem"), KEY, "cannot read /nowhere/cert.pem: No such file"),
        (CERT, TLS / "renewed.key.pem", "no certificate with its key: key values mismatch"),
        (KEY, CERT, "no certificate with its key"),
        (CERT, Path("/dev/null"), "no certificate with its key"),
    ],
)
def test_files_that_do_not_do(cert: Path | None, key: Path | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_certificate(cert, key)
