"""The training loop: steps, what is logged, evaluated and saved along the way."""

import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from invariance_propagation import settings, signals
from invariance_propagation.devices import processes
from invariance_propagation.errors import Stopped, TrainingError, UserError
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import local, writing
from invariance_propagation.store.checkpoint import (
    DAMAGED,
    FOLDER,
    Checkpoints,
    NoneWhole,
)
from invariance_propagation.store.claim import (
    KEY,
    check_place,
    claim,
    enter,
    move_aside,
    traces_in,
)
from invariance_propagation.store.damage import check_noted
from invariance_propagation.store.lock import FILE, Lock, is_marked
from invariance_propagation.train import messages, monitor
from invariance_propagation.train.averages import NotFinite, Window
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import (
    METRICS_FILE,
    MetricsLog,
    Progress,
    Silent,
    read_rows,
)
from invariance_propagation.train.resume import failure
from invariance_propagation.train.resume.identity import (
    check_same_run,
    crop_of,
    identity_of,
    method_of,
    names_of,
    steps_per_epoch_of,
)
from invariance_propagation.train.resume.match import carry_over, stored_shapes
from invariance_propagation.train.resume.saver import Saver
from invariance_propagation.train.resume.schedule import check_horizon, how_to_train_on
from invariance_propagation.train.resume.start import Start, start_of
from invariance_propagation.train.run import Run
from invariance_propagation.train.state import TrainState
from invariance_propagation.train.stopping import (
    LIMIT,
    Stopping,
    describe,
    exit_status,
    stop_requests,
)
from invariance_propagation.version import versions

START_OVER = "--config.train.start_over=True"
PARAMETERS_FILE = "parameters.txt"
FILES = (METRICS_FILE, monitor.SUMMARY_FILE, PARAMETERS_FILE)
# What tells that a run has been in a workdir; and what of it is moved aside.
TRACES = (FOLDER, DAMAGED, METRICS_FILE, monitor.SUMMARY_FILE)
MOVED = (FOLDER, DAMAGED, *FILES)


def train_and_evaluate(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Trains to the end of the config, from the last checkpoint if there is one.

    Args:
      config: as from configs/default.py.
      workdir: where checkpoints and logs lie; made if it is not there, and tried out
        before the first step.

    Returns:
      The summary that is also printed and written to summary.json: kNN accuracy and
      the method's own scores in [0, 1], steps.

    Raises:
      UserError: bad input; nothing has been written.
      TrainingError: a loss that is not finite, or a checkpoint that cannot be
        read or written.
      Stopped: SIGTERM, SIGINT, SIGHUP, or train.stop_after_*; a checkpoint has been
        written.
    """
    run, folder = processes.everywhere(_build, config, workdir)
    return go_on(run, config, folder)


def go_on(run: Run, config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Does what `train_and_evaluate` does, with a run that is built of the config."""
    processes.announce()
    checkpoints = Checkpoints(folder, keep=run.options.keep_checkpoints)
    lock = Lock(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.undone_at_end(lock.release))
        stack.callback(lock.release)
        stack.callback(checkpoints.close)
        run = _with_steps_of(checkpoints, run, config)
        facts = identity_of(run)
        facts |= {"config": json.loads(config.to_json_best_effort())}
        processes.check_same(facts, "config or data set")
        summary, start = processes.from_first(
            _prepare_folder, folder, checkpoints, run, config, facts, lock
        )
        if summary is not None:
            return summary
        facts |= {"versions": versions()} | names_of(run) | crop_of(run)
        facts |= method_of(run)
        start = start and Start(*start)  # a tuple where another process has read it
        if start is not None:
            facts["started_from"] = start.facts
        return _train(run, start, facts, folder, checkpoints, lock)


def _build(config: ConfigDict, workdir: str) -> tuple[Run, Path]:
    """The run, and its workdir, which is looked at before the data set is."""
    folder = local(workdir, key=KEY)
    # Of several processes the first alone needs it, and is not known before JAX starts.
    if not processes.joined():
        check_place(folder)
    return build(config), folder


def _with_steps_of(checkpoints: Checkpoints, run: Run, config: ConfigDict) -> Run:
    """The run, its epochs of as many steps as when the one in the workdir began."""

    def look() -> int:
        facts = checkpoints.facts()
        if facts is not None:
            check_noted(facts, checkpoints.folder)
        return steps_per_epoch_of(facts, run)

    per_epoch = processes.from_first(look)
    if per_epoch == run.steps_per_epoch:
        return run
    again = partial(build, dataset=run.dataset, steps_per_epoch=per_epoch)
    return processes.everywhere(again, config)


def _prepare_folder(
    folder: Path,
    checkpoints: Checkpoints,
    run: Run,
    config: ConfigDict,
    facts: dict[str, Any],
    lock: Lock,
) -> tuple[dict[str, Any] | None, Start | None]:
    """The summary of a run that is finished; else makes the folder, for this run."""
    found = checkpoints.facts()
    difference = check_same_run(found, facts, run, folder)
    if found is not None:
        own = facts["config"]
        before = settings.by_new_names(found["config"])
        messages.changed_settings(before, own)
        if found["step"] < run.total_steps:
            change = check_horizon(
                before,
                own,
                step=found["step"],
                steps_per_epoch=run.steps_per_epoch,
                folder=folder,
            )
            if change:
                print(change)
        # A run that was killed before its summary goes on to make it.
        summary = monitor.read_summary(folder)
        finished = summary is not None and summary.get("steps") == found["step"]
        if finished and found["step"] >= run.total_steps:
            advice = how_to_train_on(before, folder)
            if difference is not None:
                advice += "; its images have changed since, and its summary is of those before"
            notes = run.method.notes
            return monitor.repeat_summary(summary, folder, notes, advice), None
    left = _traces_in(folder) if found is None else []
    if left and not run.options.start_over:
        raise UserError(
            f"{folder} has {', '.join(left)} of a run, but no checkpoint that can be "
            f"read: put its checkpoints back into {folder / FOLDER}, or add "
            f"{START_OVER}, which moves what is left of the run aside and begins at "
            "step 0"
        )
    start = start_of(config) if found is None else None
    if not lock.held:
        enter(folder, lock)
        if _step_of(checkpoints.facts()) != _step_of(found):
            # Another run has just ended here.
            return _prepare_folder(folder, checkpoints, run, config, facts, lock)
    if left:
        place = move_aside(folder, MOVED)
        print(f"what is left of a run now lies in {place}; beginning at step 0")
    claim(folder, FILES)
    return None, start


def _traces_in(folder: Path) -> list[str]:
    """What tells that a run with checkpoints has been in a workdir."""
    return traces_in(folder, TRACES) + ([FILE] if is_marked(folder) else [])


def _step_of(facts: dict[str, Any] | None) -> int | None:
    return facts and facts["step"]


def _train(
    run: Run,
    begin: Start | None,
    facts: dict[str, Any],
    folder: Path,
    checkpoints: Checkpoints,
    lock: Lock,
) -> dict[str, Any]:
    if processes.is_first():
        messages.run_prepares(run)
    state = run.init(start=begin and begin[:2])
    start, window = 0, Window()
    shapes = run.runner.shapes(state, run.spec, run.num_examples)
    restored = processes.from_first(
        _restore,
        checkpoints,
        partial(stored_shapes, shapes, facts, run),
        run.options.start_over,
    )
    if restored is not None:
        start, leaves, saved = restored
        arrays = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
        where = checkpoints.workdir
        arrays, noted = carry_over(run, arrays, shapes, facts, saved, where)
        state = run.runner.put(arrays, run.spec)
        window = Window(**saved["window"])
        facts = facts | noted
        if "started_from" in saved:  # its weights may be gone by now
            facts = facts | {"started_from": saved["started_from"]}
    log, progress = Silent(), Silent()
    if processes.is_first():
        overview = parameter_overview.get_parameter_overview(
            run.runner.local(state.params)
        )
        path = folder / PARAMETERS_FILE
        with writing(path), draft_of(path) as draft:
            draft.write_text(overview + "\n", encoding="utf-8")
        messages.run_starts(run, folder, state, start)
        log = MetricsLog(
            folder,
            tensorboard=run.options.tensorboard,
            keep_until=start if restored is not None else -1,
        )
        progress = Progress(start, run.total_steps, brief=run.method.notes.brief)
    feed = run.feed(start=start, stop=run.total_steps)
    saver = Saver(run, checkpoints)
    try:
        if restored is None:
            # Before the first row: rows without a checkpoint are of one that was lost.
            facts = facts | {"untrained": _score_untrained(run, state, progress)}
            saver.hold(0, state, facts | {"window": window.facts()})
            saver.write()
            processes.from_first(checkpoints.finish)
        processes.from_first(lock.mark)
        if start == 0:
            _log_scores(0, 0, facts["untrained"], folder, log)
        stopping = _stopping(run, start, checkpoints)
        with signals.kept(stopping):
            with stop_requests(stopping):
                state = _loop(
                    run,
                    state,
                    start,
                    feed,
                    window,
                    saver,
                    checkpoints,
                    facts,
                    log,
                    progress,
                    stopping,
                )
            steps = max(start, run.total_steps)
            trained = monitor.knn(run, state) if run.has_knn else {}
            epoch = (steps - 1) // run.steps_per_epoch
            _log_scores(steps, epoch, trained, folder, log)
            scores = facts["untrained"], trained
            return processes.from_first(
                monitor.summarize, run, state, steps, folder, *scores
            )
    except NotFinite as error:
        processes.from_first(checkpoints.finish)
        message = processes.from_first(failure.keep, run, folder, error)
        raise TrainingError(message) from error
    finally:
        feed.close()
        progress.close()
        log.close()


def _stopping(run: Run, start: int, checkpoints: Checkpoints) -> Stopping:
    limit = run.options.stop_after_steps
    checkpoints.on_disk = start  # not known where another process has read it
    return Stopping(
        run.runner,
        start=start,
        last_step=start + limit if limit else None,
        hours=run.options.stop_after_hours,
        on_disk=lambda: checkpoints.on_disk,
        describe=partial(_how_to_go_on, run, checkpoints),
    )


def _how_to_go_on(
    run: Run, checkpoints: Checkpoints, by: str, step: int, lost: int = 0
) -> str:
    since = f" of step {step}, and what came after it is lost" if lost else ""
    return (
        f"stopped by {by} at step {step + lost} of {run.total_steps}; a checkpoint is in "
        f"{checkpoints.folder}{since}; run the same command to go on"
    )


def _restore(
    checkpoints: Checkpoints, shapes: Callable[[Any], Any], start_over: bool
) -> tuple[int, list[np.ndarray], dict[str, Any]] | None:
    """Step, leaves of the state and facts of the newest whole checkpoint, if any."""
    try:
        restored = checkpoints.restore(shapes)
    except NoneWhole as error:
        if not start_over:
            raise TrainingError(
                f"{error}: put a whole one there, or add {START_OVER}, which moves what "
                "is left of the run aside and begins at step 0"
            ) from error
        place = move_aside(checkpoints.workdir, MOVED)
        # What a run starts from is read before its checkpoints are.
        raise TrainingError(
            f"no checkpoint was whole, and what was left of the run now lies in {place}: "
            "run the same command again, which begins at step 0"
        ) from error
    if restored is None:
        return None
    step, state, facts = restored
    return step, jax.tree.leaves(state), facts


def _score_untrained(run: Run, state: TrainState, progress: Any) -> dict[str, float]:
    if not run.has_knn:
        return {}
    progress.say("kNN of the network before training")
    return monitor.knn(run, state)


def _log_scores(
    step: int, epoch: int, scores: dict[str, float], folder: Path, log: Any
) -> None:
    """Once, also where a run was killed before its row or after it."""
    if scores and not processes.from_first(_has_scores_of, step, folder):
        log.write({"step": step, "epoch": epoch, **scores})


def _has_scores_of(step: int, folder: Path) -> bool:
    rows = filter(monitor.has_scores, read_rows(folder))
    return any(row["step"] == step for row in rows)


def _loop(
    run, state, start, feed, window, saver, checkpoints, facts, log, progress, stopping
) -> TrainState:
    options, per_epoch = run.options, run.steps_per_epoch
    clock, clocked, waited = time.monotonic(), start, 0.0
    given = ahead = None
    before = _last_row(checkpoints.workdir)
    _score_if_due(run, state, start, log, progress, stopping, checkpoints.workdir)
    for step in range(start, run.total_steps):
        epoch, place = divmod(step, per_epoch)
        asked = time.monotonic()
        taken = stopping.unless_asked(partial(next, feed))
        if taken is None:
            if step != checkpoints.newest:
                window.settle()
                saver.hold(step, state, facts | {"window": window.facts()})
                saver.try_and_write(state, given)
            raise _stopped(run, checkpoints, step, stopping(step))
        given = taken
        waited += time.monotonic() - asked
        state, metrics = run.step(state, *given)
        # Steps that the device was given far ahead would have to end before a stop.
        jax.block_until_ready(ahead)
        ahead = metrics
        window.add(step, metrics)
        if saver.holds:
            window.settle()
            saver.write()
        checkpoints.check()
        progress.advance()

        done, last = step + 1, step + 1 == run.total_steps
        row_due = place + 1 == per_epoch or (place + 1) % options.log_every == 0 or last
        if step == start and not row_due:
            # The first step compiles, which must not spoil the forecast.
            jax.block_until_ready(metrics)
            clock, clocked, waited = time.monotonic(), done, 0.0
        if row_due:
            row = {"step": done, "epoch": epoch, **window.means()}
            now = time.monotonic()
            rate = (done - clocked) / (now - clock)
            row |= {
                "learning_rate": float(run.schedule(step)),
                "images_per_second": rate * options.batch_size,
                "waiting_for_data": waited / (now - clock),
                "seconds_left": (run.total_steps - done) / rate,
            }
            row |= monitor.measure(run, state)
            log.write(row)
            progress.show(row, always=last)
            messages.news(run, row, before, progress)
            messages.collapse(row, before, progress)
            before = row
            window, clock, clocked, waited = Window(), time.monotonic(), done, 0.0
        folder = checkpoints.workdir
        if _score_if_due(run, state, done, log, progress, stopping, folder):
            clock, clocked, waited = time.monotonic(), done, 0.0
        stop = stopping(done)
        if done % options.checkpoint_every == 0 or last or stop:
            window.settle()
            saver.hold(done, state, facts | {"window": window.facts()})
        if last or stop:
            state = saver.try_and_write(state, given)
        if stop and not (last and stop == LIMIT):
            raise _stopped(run, checkpoints, done, stop)
    return state


def _stopped(run: Run, checkpoints: Checkpoints, done: int, stop: int) -> Stopped:
    """Returns the error to raise, once the checkpoint is on disk."""
    processes.from_first(checkpoints.finish)
    text = _how_to_go_on(run, checkpoints, describe(stop), done)
    return Stopped(text, exit_status(stop))


def _score_if_due(
    run: Run,
    state: TrainState,
    done: int,
    log: Any,
    progress: Any,
    stopping: Stopping,
    folder: Path,
) -> bool:
    """Measures kNN between epochs; returns whether it did.

    A run that was stopped meanwhile measures it when it goes on.
    """
    epoch, place = divmod(done, run.steps_per_epoch)
    every = run.options.evaluate_every
    if not (run.has_knn and every and 0 < done < run.total_steps):
        return False
    if place or epoch % every or processes.from_first(_has_scores_of, done, folder):
        return False
    scores = stopping.unless_asked(partial(monitor.knn, run, state))
    if scores is None:
        return False
    log.write({"step": done, "epoch": epoch - 1, **scores})
    progress.say(f"epoch {epoch - 1}: kNN {monitor.describe(scores)}")
    return True


def _last_row(folder: Path) -> dict[str, Any]:
    """Of training; {} before the first."""
    return next((row for row in reversed(read_rows(folder)) if "loss" in row), {})
