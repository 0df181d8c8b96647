"""Checks where processes are to meet, and explains why they did not."""

import os
import socket
from typing import NamedTuple

from jax._src.clusters import ClusterEnv  # what it finds has no public name

from invariance_propagation.errors import UserError

AUTO = "auto"


class Place(NamedTuple):
    """Where processes are to meet, and which of them this one is."""

    coordinator: str  # HOST:PORT of process 0, or 'auto'
    num_processes: int | None  # None: JAX can tell
    process_id: int | None

    def check(self) -> None:
        """Raises UserError for a wrong address, or if process 0 cannot have its port."""
        _, port = address_of(self.coordinator)
        if self.process_id == 0:
            check_free(port)


def find_place(
    num_processes: int | None, process_id: int | None, *, timeout: float
) -> Place:
    """Asks the cluster what `join` was not told; may wait for process 0's host to have a name.

    Returns:
      A place whose coordinator is 'auto' if JAX knows no cluster of this kind.

    Raises:
      UserError: as `Place.check`.
    """
    address, num_processes, process_id, _ = (
        ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"),
            num_processes,
            process_id,
            None,
            None,
            int(timeout),
        )
    )
    place = Place(address or AUTO, num_processes, process_id)
    if address:
        place.check()
    return place


def address_of(coordinator: str) -> tuple[str, int]:
    """Splits HOST:PORT; raises UserError if it is something else."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"--coordinator={coordinator}: write HOST:PORT, e.g. 10.0.0.1:1234, or "
            f"{AUTO!r}"
        )
    return host.strip("[]"), int(port)


def check_free(port: int) -> None:
    """Raises UserError if a port of this host is taken; JAX would crash."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"--coordinator: port {port} cannot be used on this host "
            f"({error.strerror}): choose another"
        ) from error


def who_is_missing(place: Place, timeout: float) -> str:
    """Says which processes did not come within `timeout` seconds."""
    known, num_processes = place.coordinator != AUTO, place.num_processes
    if known and place.process_id != 0 and not _answers(address_of(place.coordinator)):
        return (
            f"process 0 does not answer at {place.coordinator} (--coordinator) "
            f"within {timeout:g} seconds: is it running there, and can this host reach "
            "it?"
        )
    count = "the" if num_processes is None else f"the {num_processes}"
    return (
        f"not all of {count} processes have come within {timeout:g} seconds: start the "
        "same command on each host, with --process_id from 0 up, each once; "
        "--join_timeout sets how long they wait"
    )


def bad_names(coordinator: str, error: Exception) -> UserError:
    """Returns the error for flags that JAX refuses or that name no processes."""
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"--coordinator={coordinator}: {reason} Name it on each host by "
        "--coordinator=HOST:PORT --num_processes=N --process_id=I; process 0 runs on HOST"
    )


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True
