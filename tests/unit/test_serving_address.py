"""Where a server can listen: an address of this machine that no other program has."""

import socket

import pytest

from serving.server import AddressRefused, address_of


def listener(*, shared: bool) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def test_a_name_becomes_the_number_to_listen_on() -> None:
    assert address_of("localhost", 0) == "127.0.0.1"
    assert address_of("127.0.0.1", 0) == "127.0.0.1"


def test_a_port_of_another_program_is_refused_by_name() -> None:
    with listener(shared=False) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressRefused, match=f"nobody can listen on 127.0.0.1:{port}: Address already in use"):
            address_of("127.0.0.1", port)


def test_a_port_is_shared_with_another_server_which_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """It may be the one to be replaced, or that of another project."""
    with listener(shared=True) as other:
        port = other.getsockname()[1]
        assert address_of("127.0.0.1", port) == "127.0.0.1"
    assert f"another server listens on 127.0.0.1:{port}, and gets a part of the requests" in caplog.text
    caplog.clear()
    assert address_of("127.0.0.1", port) == "127.0.0.1"
    assert not caplog.text


def test_what_another_program_left_to_the_kernel_is_no_hindrance() -> None:
    """The port of a server that has just ended: the kernel remembers the connections that it closed."""
    with listener(shared=False) as other:
        port = other.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            accepted, _ = other.accept()
            accepted.close()
            assert caller.recv(1) == b""
    assert address_of("127.0.0.1", port) == "127.0.0.1"


@pytest.mark.parametrize("host", ["203.0.113.9", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused, match=f"nobody can listen on {host}:6566"):
        address_of(host, 6566)
