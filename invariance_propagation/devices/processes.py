"""Several processes, one per host: how they find each other, share and agree.

All of them run the same program. The first alone writes, prints and decides what
depends on files, so that the workdir need not be seen by the others. With one
process every function here is the identity.
"""

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

from invariance_propagation.devices.packing import pack, unpack
from invariance_propagation.devices.peers import JAX_SILENT_AFTER, Peers, first_is_gone
from invariance_propagation.devices.relay import Relay
from invariance_propagation.errors import UserError, from_words, to_words

Result = TypeVar("Result")

AUTO = "auto"
PIECE_BYTES = 2**26  # sent at once
LEAVE_SECONDS = 10.0
TEXT_BYTES = 1024
_all_came = threading.Event()


def join(
    *,
    coordinator: str,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> None:
    """Waits for the other processes; must come before JAX starts.

    Args:
      coordinator: HOST:PORT of process 0, or 'auto' where JAX can tell by itself: on
        a TPU pod, under SLURM, Open MPI or Kubernetes.
      num_processes: of them all; None where JAX can tell.
      process_id: of this one, from 0; None where JAX can tell.
      timeout: seconds to wait.

    Raises:
      UserError: they have not all come in time, or are not named rightly.
    """
    address = None if coordinator == AUTO else _address(coordinator)
    if address is not None and process_id == 0:
        _check_free(address[1])
    # Else JAX would swallow each SIGTERM from here on, and leave it to us to ask it.
    jax.config.update("jax_enable_preemption_service", False)
    failure: list[Exception] = []
    relay, meet_at = None, None if address is None else coordinator
    if address is not None and process_id:
        relay = Relay(*address, when_gone=first_is_gone)
        meet_at = relay.address

    def initialize() -> None:
        try:
            # JAX ends the process without a word for people when its own time is up.
            jax.distributed.initialize(
                meet_at,
                num_processes,
                process_id,
                initialization_timeout=int(timeout) + 3600,
                heartbeat_timeout_seconds=JAX_SILENT_AFTER,
            )
            state = distributed.global_state
            Peers(state.client, state.process_id, state.num_processes).watch()
            if relay is not None:
                relay.keep()
                # Before JAX's own end, registered earlier, which waits for process 0.
                atexit.register(relay.let_go)
        except Exception as error:
            failure.append(error)
        else:
            _all_came.set()

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise UserError(_who_is_missing(address, num_processes, process_id, timeout))
    if failure:
        reason = str(failure[0]).strip().splitlines()[0]
        raise UserError(
            f"--coordinator={coordinator}: {reason} Name it on each host by "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, of which "
            "process 0 runs on HOST"
        ) from failure[0]


def leave(status: int) -> None:
    """Ends this process, which may be alone in that.

    A mere exit would wait for the others, and they for this one, for minutes.
    """
    if _all_came.is_set():
        thread = threading.Thread(target=_say_goodbye, daemon=True)
        thread.start()
        thread.join(LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def joined() -> bool:
    """Whether there was a `join`; does not start JAX."""
    return jax.distributed.is_initialized()


def several() -> bool:
    """Starts JAX only where there was a `join`."""
    return joined() and jax.process_count() > 1


def speaks() -> bool:
    """Returns whether this process prints for all of them; does not start JAX."""
    return not distributed.global_state.process_id


def is_first() -> bool:
    return jax.process_index() == 0


def from_first(work: Callable[..., Result], *args: Any) -> Result:
    """`work(*args)` in the first process: its result, or error, for all of them.

    The result must be what `packing.pack` takes; a named tuple comes as a tuple.
    """
    if not several():
        return work(*args)
    result, failure, content = None, None, b""
    if is_first():
        try:
            result = work(*args)
            content = pack((result, None))
        except Exception as error:
            failure = error
            content = pack((None, to_words(error, "process 0")))
    told, words = unpack(_from_first(content))
    if words is not None:
        raise failure or from_words(words)
    return result if is_first() else told


def everywhere(work: Callable[..., Result], *args: Any) -> Result:
    """`work(*args)` in each process; what one of them cannot do, none does.

    It may be what starts JAX.

    Raises:
      UserError: of this process, or of the first that has one.
    """
    if not joined():
        return work(*args)
    result, own = None, ""
    try:
        result = work(*args)
    except UserError as error:
        own = str(error)
    text = np.zeros((1, TEXT_BYTES), np.uint8)
    encoded = own.encode()[:TEXT_BYTES]
    text[0, : len(encoded)] = list(encoded)
    texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gather(text)]
    if own:
        raise UserError(own)
    for process, text in enumerate(texts):
        if text:
            raise UserError(f"process {process}: {text}")
    return result


def check_same(facts: dict[str, Any], what: str) -> None:
    """Raises UserError unless all processes have the same facts, JSON."""
    if not several():
        return
    digest = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    digests = gather(np.array([digest], np.uint32))
    if np.any(digests != digests[0]):
        other = int(np.argmax(digests != digests[0]))
        raise UserError(
            f"process {other} has another {what} than process 0: run the same command "
            "on every host, with the same files"
        )


def gather(own: np.ndarray) -> np.ndarray:
    """[n, ...] of each process -> [n * processes, ...] in all, in their order."""
    if not several():
        return own
    check_devices()
    count, row = len(own), max(1, own[:1].nbytes)
    whole = np.empty((jax.process_count(), *own.shape), own.dtype)
    # A piece at a time: it passes over a device, which need not hold all of it.
    rows = max(1, PIECE_BYTES // row)
    for start in range(0, count, rows):
        part = own[start : start + rows]
        whole[:, start : start + rows] = multihost_utils.process_allgather(part)
    return whole.reshape(-1, *own.shape[1:])


def check_devices() -> None:
    """Raises UserError unless all processes are known and have as many devices."""
    if jax.process_count() > 1 and not joined():
        raise UserError(
            f"JAX sees {jax.process_count()} processes: run this command on every host "
            f"with --coordinator={AUTO}"
        )
    owners = [device.process_index for device in jax.devices()]
    counts = np.bincount(owners, minlength=jax.process_count())
    if np.any(counts != counts[0]):
        raise UserError(
            f"the processes have {', '.join(map(str, counts))} devices: give all of "
            "them as many (JAX_NUM_CPU_DEVICES on CPUs, CUDA_VISIBLE_DEVICES on GPUs)"
        )


def announce() -> None:
    """Says which process this is, where there are several; each of them does."""
    if several():
        print(
            f"process {jax.process_index()} of {jax.process_count()} with "
            f"{jax.local_device_count()} of {jax.device_count()} devices",
            flush=True,
        )


def _from_first(content: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Few lengths, because each is a program of its own.
    length = min(PIECE_BYTES, max(1024, 1 << (size - 1).bit_length()))
    received = bytearray()
    for start in range(0, size, length):
        piece = np.zeros(length, np.uint8)
        part = np.frombuffer(content[start : start + length], np.uint8)
        if is_first():
            piece[: len(part)] = part
        received += bytes(multihost_utils.broadcast_one_to_all(piece))
    return bytes(received[:size])


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"--coordinator={coordinator}: write HOST:PORT, e.g. 10.0.0.1:1234, or "
            f"{AUTO!r}"
        )
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    # JAX crashes where the port is taken.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"--coordinator: port {port} cannot be used on this host "
            f"({error.strerror}): choose another"
        ) from error


def _who_is_missing(
    address: tuple[str, int] | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: float,
) -> str:
    if address is not None and process_id != 0 and not _answers(address):
        return (
            f"process 0 does not answer at {address[0]}:{address[1]} (--coordinator) "
            f"within {timeout:g} seconds: is it running there, and can this host reach "
            "it?"
        )
    count = "the" if num_processes is None else f"the {num_processes}"
    return (
        f"not all of {count} processes have come within {timeout:g} seconds: start the "
        "same command on each host, with --process_id from 0 up, each once; "
        "--join_timeout sets how long they wait"
    )


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def _say_goodbye() -> None:
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
