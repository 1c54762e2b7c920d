"""Free TCP ports on loopback."""

import random
import socket

RANGE = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections (32768 and up): what is free stays free."""


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections of the last run that the kernel still remembers do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(names: tuple[str, ...], kept: dict[str, int]) -> dict[str, int]:
    """A port for each name: the kept one while it is free, else a free one by chance."""
    chosen: dict[str, int] = {}
    for name in names:
        port = kept.get(name, 0)
        while port in chosen.values() or port not in RANGE or not is_free(port):
            port = random.choice(RANGE)
        chosen[name] = port
    return chosen
