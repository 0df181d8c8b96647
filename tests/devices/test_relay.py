"""Tests that we, and not JAX, notice that process 0 has ended."""

import socket
import threading

import pytest

from invariance_propagation.devices.relay import Relay

WITHIN = 10.0  # seconds


@pytest.mark.parametrize("kept", [True, False])
def test_the_end_of_the_other_side_is_told_as_long_as_it_matters(kept: bool) -> None:
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WITHIN)
        relay = Relay(*server.getsockname(), when_gone=gone.set)
        host, port = relay.address.split(":")
        with socket.create_connection((host, int(port)), timeout=WITHIN) as near:
            far, _ = server.accept()
            with far:
                far.settimeout(WITHIN)
                near.sendall(b"asked")
                assert far.recv(5) == b"asked"
                far.sendall(b"told")
                assert near.recv(4) == b"told"
                relay.keep()
                if not kept:
                    relay.let_go()
            if kept:
                assert gone.wait(WITHIN)
            else:
                assert near.recv(1) == b""  # as JAX expects at the end
                assert not gone.is_set()
