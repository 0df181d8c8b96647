"""Lets several processes, one per host, join, share values and agree.

All processes run the same program. Only the first one writes, prints and decides what
depends on files, so the others need not see the workdir. With a single process, every
function here returns its input.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

from invariance_propagation.devices.meeting import (
    AUTO,
    Place,
    address_of,
    bad_names,
    find_place,
    who_is_missing,
)
from invariance_propagation.devices.packing import pack, unpack
from invariance_propagation.devices.peers import JAX_SILENT_AFTER, Peers, first_is_gone
from invariance_propagation.devices.relay import Relay
from invariance_propagation.errors import UserError, from_words, to_words

Result = TypeVar("Result")

PIECE_BYTES = 2**26  # sent at once
LEAVE_SECONDS = 10.0
_all_came = threading.Event()


def join(
    *,
    coordinator: str,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> None:
    """Waits for the other processes. Call this before JAX starts.

    Args:
      coordinator: HOST:PORT of process 0, or 'auto' if JAX can find it: on a TPU pod,
        under SLURM, Open MPI or Kubernetes.
      num_processes: how many there are in all; None if JAX can tell.
      process_id: number of this process, from 0; None if JAX can tell.
      timeout: seconds to wait.

    Raises:
      UserError: not all processes came in time, or an argument is wrong.
    """
    place = Place(coordinator, num_processes, process_id)
    if coordinator != AUTO:
        place.check()
    # Otherwise JAX would catch every SIGTERM, and we would have to ask JAX about it.
    jax.config.update("jax_enable_preemption_service", False)
    failure: list[Exception] = []

    def initialize() -> None:
        nonlocal place
        try:
            if coordinator == AUTO:
                place = find_place(num_processes, process_id, timeout=timeout)
            _meet(place, timeout)
        except Exception as error:
            failure.append(error)
        else:
            _all_came.set()

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise UserError(who_is_missing(place, timeout))
    for error in failure:
        if isinstance(error, UserError):
            raise error
        raise bad_names(coordinator, error) from error


def _meet(place: Place, timeout: float) -> None:
    """Connects to the other processes, and starts to watch them."""
    relay, meet_at = None, place.coordinator
    if meet_at != AUTO and place.process_id:
        relay = Relay(*address_of(meet_at), when_gone=first_is_gone)
        meet_at = relay.address
    # JAX ends the process without a readable message when its own limit is up.
    jax.distributed.initialize(
        None if meet_at == AUTO else meet_at,
        place.num_processes,
        place.process_id,
        initialization_timeout=int(timeout) + 3600,
        heartbeat_timeout_seconds=JAX_SILENT_AFTER,
    )
    _watch_peers(relay)


def _watch_peers(relay: Relay | None) -> None:
    """Starts to watch the other processes, and keeps the connection to process 0."""
    state = distributed.global_state
    peers = Peers(state.client, state.process_id, state.num_processes)
    peers.watch()
    if relay is not None:
        relay.keep()
    # Registered after JAX's own exit handler, and so called before it.
    atexit.register(_part, peers, relay)


def _part(peers: Peers, relay: Relay | None) -> None:
    """Waits at the end of the program for the other processes, which still see this one."""
    if relay is not None:
        relay.let_go()
    try:
        jax.distributed.shutdown()
    finally:
        peers.stop()


def leave(status: int) -> None:
    """Ends this process, even if the others continue.

    A plain exit would wait minutes for the others, and they for this process.
    """
    if _all_came.is_set():
        thread = threading.Thread(target=_say_goodbye, daemon=True)
        thread.start()
        thread.join(LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def joined() -> bool:
    """Returns whether `join` was called; does not start JAX."""
    return jax.distributed.is_initialized()


def several() -> bool:
    """Returns whether there are several processes; starts JAX only after a `join`."""
    return joined() and jax.process_count() > 1


def speaks() -> bool:
    """Returns whether this process prints for all of them; does not start JAX."""
    return not distributed.global_state.process_id


def is_first() -> bool:
    """Returns whether this is process 0."""
    return jax.process_index() == 0


def from_first(work: Callable[..., Result], *args: Any) -> Result:
    """Runs `work(*args)` in the first process; all get its result, or raise its error.

    `packing.pack` must take the result. A named tuple arrives as a plain tuple.
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
    received, words = unpack(_from_first(content))
    if words is not None:
        raise failure or from_words(words)
    return result if is_first() else received


def everywhere(work: Callable[..., Result], *args: Any) -> Result:
    """Runs `work(*args)` in every process; if one raises UserError, all do.

    `work` may be what starts JAX.

    Raises:
      UserError: that of this process, or of the first process that has one.
    """
    if not joined():
        return work(*args)
    result, message = None, ""
    try:
        result = work(*args)
    except UserError as error:
        message = str(error)
    messages = from_each(message)
    if message:
        raise UserError(message)
    for process, text in enumerate(messages):
        if text:
            raise UserError(f"process {process}: {text}")
    return result


def from_each(value: Any) -> list[Any]:
    """Returns the values of all processes, in order; `packing.pack` must take them."""
    if not several():
        return [value]
    content = np.frombuffer(pack(value), np.uint8)
    sizes = gather(np.array([len(content)], np.int32))
    padded = np.zeros((1, _few_lengths(int(sizes.max()))), np.uint8)
    padded[0, : len(content)] = content
    rows = zip(gather(padded), sizes, strict=True)
    return [unpack(row[:size].tobytes()) for row, size in rows]


def check_same(facts: dict[str, Any], what: str) -> None:
    """Raises UserError unless all processes have the same `facts`, which are JSON."""
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


def gather(share: np.ndarray) -> np.ndarray:
    """Joins the arrays [n, ...] of all processes, in order: [n * processes, ...]."""
    if not several():
        return share
    check_devices()
    count, row = len(share), max(1, share[:1].nbytes)
    whole = np.empty((jax.process_count(), *share.shape), share.dtype)
    # In pieces, because they pass through a device, which may not hold all of it.
    rows = max(1, PIECE_BYTES // row)
    for start in range(0, count, rows):
        piece = share[start : start + rows]
        whole[:, start : start + rows] = multihost_utils.process_allgather(piece)
    return whole.reshape(-1, *share.shape[1:])


def check_devices() -> None:
    """Raises UserError unless all processes have joined, with equally many devices."""
    if jax.process_count() > 1 and not joined():
        raise UserError(
            f"JAX sees {jax.process_count()} processes: run this command on every host "
            f"with --coordinator={AUTO}"
        )
    owners = [device.process_index for device in jax.devices()]
    counts = np.bincount(owners, minlength=jax.process_count())
    if np.any(counts != counts[0]):
        raise UserError(
            f"the processes have {', '.join(map(str, counts))} devices: give each the "
            "same number (JAX_NUM_CPU_DEVICES on CPUs, CUDA_VISIBLE_DEVICES on GPUs)"
        )


def announce() -> None:
    """Prints which process this is, if there are several; each of them prints."""
    if several():
        print(
            f"process {jax.process_index()} of {jax.process_count()} with "
            f"{jax.local_device_count()} of {jax.device_count()} devices",
            flush=True,
        )


def _from_first(content: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    length = min(PIECE_BYTES, _few_lengths(size))
    received = bytearray()
    for start in range(0, size, length):
        piece = np.zeros(length, np.uint8)
        if is_first():
            some = np.frombuffer(content[start : start + length], np.uint8)
            piece[: len(some)] = some
        received += bytes(multihost_utils.broadcast_one_to_all(piece))
    return bytes(received[:size])


def _few_lengths(size: int) -> int:
    """Rounds up to few lengths, because JAX compiles a program for each."""
    return max(1024, 1 << (size - 1).bit_length())


def _say_goodbye() -> None:
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
