"""Where workers of several nodes meet."""

from types import SimpleNamespace

import pytest

from orchestrator.executors.links import interface
from orchestrator.executors.links.interface import GLOO_INTERFACE, interface_of, meet_at

ADDRESSES = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.1.2.3", "fe80::1%eth0"], "docker0": []}


@pytest.fixture
def addresses(monkeypatch):
    found = {
        name: [SimpleNamespace(address=each) for each in many] for name, many in ADDRESSES.items()
    }
    monkeypatch.setattr(interface.psutil, "net_if_addrs", lambda: found)
    monkeypatch.setenv(GLOO_INTERFACE, "")
    monkeypatch.delenv(GLOO_INTERFACE)


@pytest.mark.parametrize(
    ("address", "name"),
    [("127.0.0.1", "lo"), ("10.1.2.3", "eth0"), ("fe80::1", "eth0"), ("10.1.2.4", None)],
)
def test_an_address_is_that_of_one_interface(addresses, address, name):
    assert interface_of(address) == name


def test_gloo_listens_at_the_nodes_own_address_unless_the_user_says_otherwise(
    addresses, monkeypatch
):
    meet_at("192.0.2.99")
    assert interface.os.environ.get(GLOO_INTERFACE) is None
    meet_at("10.1.2.3")
    assert interface.os.environ[GLOO_INTERFACE] == "eth0"
    monkeypatch.setenv(GLOO_INTERFACE, "ib0")
    meet_at("10.1.2.3")
    assert interface.os.environ[GLOO_INTERFACE] == "ib0"
