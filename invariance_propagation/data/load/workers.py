"""Makes batches in worker processes, and explains in one line why a worker died.

Each worker sends its images through a separate socket, which closes when the worker ends
for any reason. The only shared memory says which images the workers are at; it has no
name, so a killed process leaves nothing behind.
"""

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker, util
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation.errors import TrainingError, from_words, to_words
from invariance_propagation.phases import after, say

NAMED = 8  # samples in a line
JOIN_SECONDS = 10.0
PATIENCE = 60.0  # seconds without images, after which a line says so
CRASHES = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"}
# These signals are for the main process, which stops the workers.
NOT_FOR_WORKERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

Piece = tuple[np.ndarray, np.ndarray]


class Work(NamedTuple):
    """Tells workers at their start what to do.

    Attributes:
      pieces: (places, note) -> for each place, indices and images. It calls `note` with
        the index of each image before reading it, and with None after the last image.
      places: of all pieces, in order; the workers take them in turn.
      per_batch: pieces in a batch.
      num_threads: threads that call `note`, in each worker.
    """

    pieces: Callable[[range, Callable[[int | None], None]], Iterable[Piece]]
    places: range
    per_batch: int
    num_threads: int


class _Worker(NamedTuple):
    process: BaseProcess
    channel: Any  # a file, of what the process sends
    board: Any  # per thread: 1 + the index of its image, negated once done; or 0


class _Traceback(Exception):
    """Shows where a worker raised an error."""


def make_batches(
    work: Work, num_workers: int, name: Callable[[int], str]
) -> Iterator[Piece]:
    """Yields batches made by worker processes; their number does not change the batches.

    Args:
      work: what to do.
      num_workers: the number of workers.
      name: returns the name of the image of an index.

    Yields:
      indices [B], images [B, ...].

    Raises:
      TrainingError: a worker died; the message names the images that it was at.
      UserError, TrainingError: a worker raised it. Any other error in a worker becomes a
        TrainingError that names the worker.
    """
    workers: list[_Worker] = []
    # This runs before multiprocessing's exit handler, which would wait for workers.
    end = util.Finalize(None, _end, args=(workers,), exitpriority=1)
    try:
        _start(work, num_workers, workers)
        turn = itertools.cycle(workers)
        for _ in range(0, len(work.places), work.per_batch):
            yield _receive(turn, work.per_batch, name)
    finally:
        end()


def _start(work: Work, count: int, workers: list[_Worker]) -> None:
    """Starts all workers at the same time, and adds them to `workers`."""
    context = multiprocessing.get_context("spawn")

    def start(number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        board = context.RawArray("q", work.num_threads)
        share = work._replace(places=work.places[number::count])
        process = context.Process(
            name=f"worker process {number}",
            target=_work,
            args=(share, theirs, board),
            daemon=True,
        )
        # If this process kept the other end, the socket would outlive the worker.
        with theirs:
            worker = _Worker(process, ours.makefile("rb"), board)
            ours.close()  # takes effect once the file is closed
            process.start()
        return worker

    resource_tracker.ensure_running()  # starting it later would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:  # new threads and processes inherit the mask of their starter
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(start, number) for number in range(count)]
        for future in futures:
            if not future.exception():
                workers.append(future.result())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for future in futures:
        try:
            future.result()
        except OSError as error:
            raise TrainingError(
                f"a worker process could not be started ({error.strerror}): lower "
                "--config.train.num_workers, and run the same command to continue"
            ) from error


def _receive(turn: Iterator[_Worker], pieces: int, name: Callable[[int], str]) -> Piece:
    batch: Piece | None = None
    for piece in range(pieces):
        worker = next(turn)
        try:
            with after(PATIENCE, functools.partial(_say_slow, worker, name)):
                batch = _take(worker.channel, batch, piece, pieces)
        except (EOFError, ConnectionError) as error:
            raise _death(worker, name) from error
    return batch


def _take(channel: Any, batch: Piece | None, piece: int, pieces: int) -> Piece:
    """Reads a piece into its place in a batch, which the first piece makes."""
    header = channel.readline()
    if not header.endswith(b"\n"):
        raise EOFError
    facts = json.loads(header)
    if "error" in facts:
        raise from_words(facts["error"]) from _Traceback(facts["traceback"])
    if batch is None:
        batch = tuple(
            np.empty((pieces * shape[0], *shape[1:]), dtype)
            for dtype, shape in facts["arrays"]
        )
    for array in batch:
        count = len(array) // pieces
        _fill(channel, array[piece * count : (piece + 1) * count])
    return batch


def _say_slow(worker: _Worker, name: Callable[[int], str]) -> None:
    say(
        f"{worker.process.name} of --config.train.num_workers (pid {worker.process.pid}) "
        f"has sent nothing for {PATIENCE:.0f} s {_where(worker.board, name)}: it is "
        "stopped, or what it reads from is slow; the run waits for it"
    )


def _fill(channel: Any, array: np.ndarray) -> None:
    if channel.readinto(memoryview(array).cast("B")) != array.nbytes:
        raise EOFError


def _death(worker: _Worker, name: Callable[[int], str]) -> TrainingError:
    """Returns the error for a worker that is gone; it names the images it was at."""
    worker.process.join(JOIN_SECONDS)
    code = worker.process.exitcode
    how, remedy = f"ended with status {code}", "fix or replace what ends it"
    if code is None:
        how, remedy = "closed its connection", "find out what holds it up"
    elif code < 0:
        number = signal.Signals(-code).name
        how = f"was killed by {number}"
        if number in CRASHES:
            how = f"crashed ({number})"
            remedy = "a damaged picture can crash a decoder; repair or replace it"
        elif number == "SIGKILL":
            remedy = "the system does that when memory runs out; if it did, lower "
            remedy += "--config.train.num_workers or --config.train.num_threads"
    return TrainingError(
        f"{worker.process.name} of --config.train.num_workers {how} "
        f"{_where(worker.board, name)}: {remedy}; run the same command to continue from "
        "the last checkpoint"
    )


def _where(board: Any, name: Callable[[int], str]) -> str:
    """Says which images the threads of a worker are at, or were at last."""
    at = sorted({place - 1 for place in board if place > 0})
    done = sorted({-place - 1 for place in board if place < 0})
    names = [name(index) for index in at or done]
    shown = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    if at:
        return f"while it was at {shown}"
    return f"while it waited, after {shown}" if done else "before its first picture"


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.channel.close()


def _work(work: Work, channel: socket.socket, board: Any) -> None:
    """Makes pieces and sends them; this is what a worker runs."""
    threading.Thread(target=_end_with_main, daemon=True).start()
    thread, numbers = threading.local(), itertools.count()

    def note(index: int | None) -> None:
        if not hasattr(thread, "place"):
            thread.place = next(numbers) % len(board)
        place = thread.place
        board[place] = -abs(board[place]) if index is None else index + 1

    # ConnectionError: the main process is gone, or wants no more.
    with contextlib.suppress(ConnectionError), channel:
        try:
            for piece in work.pieces(work.places, note):
                arrays = [np.ascontiguousarray(x) for x in piece]
                _send(channel, arrays=[(x.dtype.str, x.shape) for x in arrays])
                for array in arrays:
                    channel.sendall(memoryview(array).cast("B"))
        except ConnectionError:
            raise
        except Exception as error:
            words = to_words(error, multiprocessing.current_process().name)
            _send(channel, error=words, traceback=traceback.format_exc())


def _send(channel: socket.socket, **facts: Any) -> None:
    channel.sendall(json.dumps(facts).encode() + b"\n")


def _end_with_main() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
