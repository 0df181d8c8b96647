"""Trains a run from its first step, or its last checkpoint, to its summary."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from clu import parameter_overview
from ml_collections import ConfigDict

from invariance_propagation import signals
from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import local, writing
from invariance_propagation.phases import phase
from invariance_propagation.store.claim import KEY
from invariance_propagation.train import messages, monitor
from invariance_propagation.train.averages import NotFinite
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import MetricsLog, Silent
from invariance_propagation.train.loop import (
    Session,
    describe_stop,
    log_scores,
    take_steps,
)
from invariance_propagation.train.resume import failure
from invariance_propagation.train.resume.identity import facts_of, identity_of
from invariance_propagation.train.resume.restore import Point, first_point
from invariance_propagation.train.resume.saver import Saver
from invariance_propagation.train.resume.start import Start
from invariance_propagation.train.resume.stopping import Stopping, stop_requests
from invariance_propagation.train.resume.workdir import (
    PARAMETERS_FILE,
    Workdir,
    check_workdir,
    opened,
    prepare,
    with_noted_steps,
)
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState


def train_and_evaluate(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Trains to the end of the config, from the last checkpoint if there is one.

    Args:
      config: as configs/default.py makes it.
      workdir: folder for checkpoints and logs; made if it does not exist, and tried out
        before the first step.

    Returns:
      The summary that is also printed and written to summary.json: steps, kNN accuracy
      and the method's scores, in [0, 1].

    Raises:
      UserError: bad input; nothing has been written.
      TrainingError: a loss that is not finite, or a checkpoint that cannot be
        read or written.
      Stopped: by SIGTERM, SIGINT, SIGHUP, train.stop_after_steps or
        train.stop_after_hours; a checkpoint has been written.
    """
    run, folder = processes.everywhere(_build, config, workdir)
    return go_on(run, config, folder)


def go_on(run: Run, config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Trains as `train_and_evaluate` does.

    Args:
      run: built from `config`.
      config: noted in checkpoints, and compared with theirs.
      folder: the workdir, absolute.
    """
    processes.announce()
    with opened(folder, keep=run.options.keep_checkpoints) as place:
        messages.data_found(run)
        run = with_noted_steps(run, config, place.checkpoints)
        with phase("comparing the images with the checkpoint's", messages.say):
            facts = identity_of(run)
        facts |= {"config": json.loads(config.to_json_best_effort())}
        processes.check_same(facts, "config or data set")
        summary, start = processes.from_first(prepare, place, run, config, facts)
        if summary is not None:
            return summary
        start = start and Start(*start)  # other processes get a plain tuple
        return _train(run, place, start, facts | facts_of(run))


def _build(config: ConfigDict, workdir: str) -> tuple[Run, Path]:
    """Checks the workdir, then builds the run: loading its data may take hours."""
    folder = local(workdir, key=KEY)
    # With several processes only the first needs the folder, but which process is the
    # first is not known before JAX starts.
    if not processes.joined():
        check_workdir(folder)
    return build(config), folder


def _train(
    run: Run, place: Workdir, start: Start | None, facts: dict[str, Any]
) -> dict[str, Any]:
    """Trains in a workdir that has been prepared; returns the summary."""
    if processes.is_first():
        messages.run_prepares(run)
    point = first_point(run, place, start, facts)
    log = _open_log(run, place, point)
    session = Session(run, place, Saver(run, place.checkpoints, place.lock), log)
    try:
        if point.is_new:
            point = _save_first(session, point)
        processes.from_first(place.lock.mark)
        if point.step == 0:
            log_scores(session, 0, 0, point.facts["untrained"])
        stopping = _stopping(run, place, point.step)
        with signals.kept(stopping):
            with stop_requests(stopping):
                state = take_steps(session, point, stopping)
            return _finish(session, point, state)
    except NotFinite as error:
        processes.from_first(place.checkpoints.finish)
        message = processes.from_first(failure.keep, run, place.folder, error)
        raise TrainingError(message) from error
    finally:
        log.close()


def _open_log(run: Run, place: Workdir, point: Point) -> MetricsLog | Silent:
    """Says how the run begins, and opens its log; in the first process only."""
    if not processes.is_first():
        return Silent()
    params = run.runner.local(point.state.params)
    overview = parameter_overview.get_parameter_overview(params)
    folder = place.folder
    path = folder / PARAMETERS_FILE
    with writing(path), draft_of(path) as draft:
        draft.write_text(overview + "\n", encoding="utf-8")
    messages.run_starts(run, folder, point.state, point.step)
    return MetricsLog(
        folder,
        check=place.lock.check,
        tensorboard=run.options.tensorboard,
        keep_until=-1 if point.is_new else point.step,
    )


def _save_first(session: Session, point: Point) -> Point:
    """Scores the network before training and saves it; returns the point with scores.

    The checkpoint comes before the first row of the log: rows without a checkpoint
    would look like a run that has lost it.
    """
    run, untrained = session.run, {}
    if run.has_knn:
        with phase("kNN of the network before training", messages.say):
            untrained = monitor.knn(run, point.state)
    facts = point.facts | {"untrained": untrained}
    with phase("saving the first checkpoint", messages.say):
        session.saver.hold(0, point.state, facts | {"window": point.window.facts()})
        session.saver.write()
        processes.from_first(session.place.checkpoints.finish)
    return point._replace(facts=facts)


def _stopping(run: Run, place: Workdir, start: int) -> Stopping:
    limit, checkpoints = run.options.stop_after_steps, place.checkpoints
    checkpoints.on_disk = start  # other processes have not read the checkpoint
    return Stopping(
        run.runner,
        start=start,
        last_step=start + limit if limit else None,
        hours=run.options.stop_after_hours,
        on_disk=lambda: checkpoints.on_disk or 0,
        describe=partial(describe_stop, run, place),
    )


def _finish(session: Session, point: Point, state: TrainState) -> dict[str, Any]:
    """Scores the trained network, and writes and prints the summary."""
    run, trained = session.run, {}
    steps = max(point.step, run.total_steps)
    if run.has_knn:
        with phase("kNN of the trained network", messages.say):
            trained = monitor.knn(run, state)
    log_scores(session, steps, (steps - 1) // run.steps_per_epoch, trained)
    scores = point.facts["untrained"], trained
    return processes.from_first(
        monitor.summarize, run, state, steps, session.place.folder, *scores
    )
