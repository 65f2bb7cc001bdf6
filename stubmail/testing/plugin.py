"""The pytest plugin: ``stub_network`` starts stub mail domains on loopback for one test.

def test_mail_crosses(stub_network):
    network = stub_network({"alpha.example": ["alice"], "beta.example": ["bob"]})
    network.domains["alpha.example"].links["store"].faults.cut = True
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the plugin is loaded into every pytest run of its environment: it must cost nothing there
    from stubmail.testing.network import Network

StubNetwork = Callable[[Mapping[str, Sequence[str]]], "Network"]


@pytest.fixture
def stub_network() -> Iterator[StubNetwork]:
    """A function that takes {domain: [user, …]}, domains below ``example``, and returns a running Network.

    Passwords are ``stubmail.testing.network.PASSWORD``; all its processes end with the test.
    """
    from stubmail.testing.network import Network

    # gpg-agent's socket must have a short path, which pytest's own temporary directories do not
    root = Path(tempfile.mkdtemp(prefix="stub"))
    started: list[Network] = []

    def start(domains: Mapping[str, Sequence[str]]) -> Network:
        network = Network(root / str(len(started)), domains, links=True)
        started.append(network)
        network.start()
        return network

    try:
        yield start
    finally:
        for network in started:
            network.stop()
        shutil.rmtree(root, ignore_errors=True)
