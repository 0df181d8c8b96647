"""The training loop: takes steps, logs, evaluates, saves and stops on the way."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from invariance_propagation.devices import processes
from invariance_propagation.errors import Stopped
from invariance_propagation.phases import phase
from invariance_propagation.train import messages, monitor
from invariance_propagation.train.averages import Clock, Window
from invariance_propagation.train.journal import MetricsLog, Progress, Silent, read_rows
from invariance_propagation.train.resume.restore import Point
from invariance_propagation.train.resume.saver import Saver
from invariance_propagation.train.resume.stopping import (
    GO_ON,
    Stopping,
    advise,
    describe,
    exit_status,
    is_limit,
)
from invariance_propagation.train.resume.workdir import Workdir
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState


class Session(NamedTuple):
    """Holds what one call of training works with.

    Attributes:
      run: the run.
      place: its workdir.
      saver: writes checkpoints.
      log: takes rows of metrics; `Silent` in all processes but the first.
    """

    run: Run
    place: Workdir
    saver: Saver
    log: MetricsLog | Silent


def take_steps(session: Session, point: Point, stopping: Stopping) -> TrainState:
    """Takes the steps from a point to the end of the run.

    Args:
      session: the run and its workdir.
      point: where to begin.
      stopping: decides whether to stop early.

    Returns:
      The state after the last step, which has been saved.

    Raises:
      Stopped: before the last step; the state has been saved.
      NotFinite: a step has made NaN or infinity.
      TrainingError: a file cannot be written.
    """
    run, start = session.run, point.step
    _score_if_due(session, point.state, start, stopping)
    if start >= run.total_steps:
        return point.state
    clock = Clock(start)
    feed = run.input.feed(start=start, stop=run.total_steps)
    with contextlib.closing(feed):
        take = partial(stopping.unless_asked, partial(next, feed))
        first = _first_batch(run, point.state, take)
        # Only now, so that no speed and no forecast includes compilation.
        clock.restart(start)
        batches = itertools.chain((first,), _later_batches(take, clock))
        with _progress(run, start) as progress:
            return _loop(session, point, stopping, batches, clock, progress)


def _loop(
    session: Session,
    point: Point,
    stopping: Stopping,
    batches: Iterator[tuple | None],
    clock: Clock,
    progress: Progress | Silent,
) -> TrainState:
    run, state, window = session.run, point.state, point.window
    saver, checkpoints = session.saver, session.place.checkpoints
    before, batch, ahead = _last_row(session.place.folder), None, None
    numbers = range(point.step, run.total_steps)
    for step, next_batch in zip(numbers, batches, strict=False):
        if next_batch is None:
            if step != checkpoints.newest:
                _hold(session, step, state, window, point.facts)
                saver.try_and_write(state, batch)
            raise _stopped(session, point, step, stopping(step))
        batch = next_batch
        state, metrics = run.step(state, *batch)
        # At most one step runs ahead: before a stop all of them would have to end.
        jax.block_until_ready(ahead)
        ahead = metrics
        window.add(step, metrics)
        if saver.holds:
            window.settle()
            saver.write()
        checkpoints.check()
        progress.advance()
        done, last = step + 1, step + 1 == run.total_steps
        if _row_is_due(run, done):
            row = _row(run, state, done, window, clock)
            _publish(session, row, before, progress)
            before, window = row, Window()
            clock.restart(done)
        if _score_if_due(session, state, done, stopping):
            clock.restart(done)
        stop = stopping(done)
        if done % run.options.checkpoint_every == 0 or last or stop:
            _hold(session, done, state, window, point.facts)
        if last or stop:
            with phase(f"saving the checkpoint of step {done:,}", messages.say):
                state = saver.try_and_write(state, batch)
        if stop and not (last and is_limit(stop)):
            raise _stopped(session, point, done, stop)
    return state


def log_scores(session: Session, step: int, epoch: int, scores: dict[str, Any]) -> None:
    """Logs scores, unless a run that was killed has already logged them."""
    folder = session.place.folder
    if scores and not processes.from_first(_has_scores_of, step, folder):
        session.log.write({"step": step, "epoch": epoch, **scores})


def describe_stop(
    run: Run, place: Workdir, by: str, step: int, lost: int = 0, advice: str = GO_ON
) -> str:
    """Says what has stopped a run, where, and how to continue.

    Args:
      run: the run.
      place: its workdir.
      by: what stopped it.
      step: the step of the checkpoint on disk.
      lost: the number of steps since then.
      advice: how to continue.
    """
    since = f" of step {step}, and what came after it is lost" if lost else ""
    return (
        f"stopped by {by} at step {step + lost} of {run.total_steps}; a checkpoint is in "
        f"{place.checkpoints.folder}{since}; {advice}"
    )


def _first_batch(
    run: Run, state: TrainState, take: Callable[[], tuple | None]
) -> tuple | None:
    """Waits for the first batch and compiles the step for it.

    Returns:
      The arguments of the first step; None if a signal asks to stop.
    """
    with phase("reading the first images", messages.say):
        batch = take()
    if batch is not None and hasattr(run.step, "lower"):
        # The step itself then finds the program in JAX's cache.
        with phase("compiling the step", messages.say):
            run.step.lower(state, *batch).compile()
    return batch


def _later_batches(
    take: Callable[[], tuple | None], clock: Clock
) -> Iterator[tuple | None]:
    while True:
        with clock.waiting():
            batch = take()
        yield batch


@contextlib.contextmanager
def _progress(run: Run, start: int) -> Iterator[Progress | Silent]:
    progress = Silent()
    if processes.is_first():
        progress = Progress(start, run.total_steps, brief=run.method.notes.brief)
    try:
        yield progress
    finally:
        progress.close()


def _row_is_due(run: Run, done: int) -> bool:
    """Returns whether a row of the log ends here: every few steps, and each epoch."""
    place = done % run.steps_per_epoch
    return place % run.options.log_every == 0 or done == run.total_steps


def _row(
    run: Run, state: TrainState, done: int, window: Window, clock: Clock
) -> dict[str, Any]:
    epoch = (done - 1) // run.steps_per_epoch
    row = {"step": done, "epoch": epoch, **window.means()}
    figures = clock.figures(
        done, total=run.total_steps, batch_size=run.options.batch_size
    )
    row |= {"learning_rate": float(run.schedule(done - 1)), **figures}
    return row | monitor.measure(run, state)


def _publish(
    session: Session,
    row: dict[str, Any],
    before: dict[str, Any],
    progress: Progress | Silent,
) -> None:
    """Logs a row, shows it, and says what is new in it."""
    run = session.run
    session.log.write(row)
    progress.show(row, always=row["step"] == run.total_steps)
    news = run.method.notes.notices(row, before)
    for line in (*news, *messages.collapse(row, before)):
        messages.say(line)


def _score_if_due(
    session: Session, state: TrainState, done: int, stopping: Stopping
) -> bool:
    """Measures kNN between epochs, and returns whether it did.

    If a signal stops the measurement, the run makes up for it when it continues.
    """
    run = session.run
    epoch, place = divmod(done, run.steps_per_epoch)
    every = run.options.evaluate_every
    if not (run.has_knn and every and 0 < done < run.total_steps):
        return False
    folder = session.place.folder
    if place or epoch % every or processes.from_first(_has_scores_of, done, folder):
        return False
    with phase(f"kNN after epoch {epoch - 1}", messages.say):
        scores = stopping.unless_asked(partial(monitor.knn, run, state))
    if scores is None:
        return False
    session.log.write({"step": done, "epoch": epoch - 1, **scores})
    messages.say(f"epoch {epoch - 1}: kNN {monitor.describe(scores)}")
    return True


def _hold(
    session: Session,
    done: int,
    state: TrainState,
    window: Window,
    facts: dict[str, Any],
) -> None:
    """Copies the state to the host, to be saved after the next step."""
    window.settle()
    session.saver.hold(done, state, facts | {"window": window.facts()})


def _stopped(session: Session, point: Point, done: int, stop: int) -> Stopped:
    """Returns the error to raise, once the checkpoint is on disk."""
    run, place = session.run, session.place
    processes.from_first(place.checkpoints.finish)
    by = describe(stop, run.options)
    advice = advise(stop, taken=done - point.step)
    text = describe_stop(run, place, by, done, advice=advice)
    return Stopped(text, exit_status(stop))


def _has_scores_of(step: int, folder: Path) -> bool:
    rows = filter(monitor.has_scores, read_rows(folder))
    return any(row["step"] == step for row in rows)


def _last_row(folder: Path) -> dict[str, Any]:
    """Returns the last row of training; {} before the first."""
    return next((row for row in reversed(read_rows(folder)) if "loss" in row), {})
