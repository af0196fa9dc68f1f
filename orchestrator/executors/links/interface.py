"""The network interface on which a worker is reached by those on other nodes."""

from __future__ import annotations

import os

import psutil

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str) -> str | None:
    """Which interface of this machine has an address.

    Args:
        address: An IP address.

    Returns:
        Its name; None where no interface has the address, as behind a translation of addresses.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


def meet_at(address: str) -> None:
    """Let Gloo listen where the node of this process is known to others.

    Left to itself it listens where the machine's own name leads: on Debian to 127.0.1.1, which
    nobody else reaches, and elsewhere perhaps to a network that the other nodes are not in. Of a
    local Ray that address is 127.0.0.1, and others do not reach its workers. A setting of the
    user's stands. NCCL needs none: it leaves loopback out, and may use several interfaces.

    Args:
        address: By which Ray knows the node.
    """
    name = interface_of(address)
    if name is not None:
        os.environ.setdefault(GLOO_INTERFACE, name)
