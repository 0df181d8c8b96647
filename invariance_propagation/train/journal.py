"""What a run shows and keeps: a bar or plain lines, and metrics.jsonl."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tqdm

from invariance_propagation.errors import TrainingError
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import reason, remedy, writing

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar with the latest figures on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        start: int,
        total: int,
        *,
        brief: Callable[[Mapping[str, Any]], list[str]] = lambda row: [],
    ):
        """Starts the bar.

        Args:
          start: steps done already.
          total: steps of the run.
          brief: row of metrics -> phrases of the method to show with it.
        """
        self._total, self._brief = total, brief
        self._last_line = time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar = (
            tqdm.tqdm(initial=start, total=total, unit="step", dynamic_ncols=True)
            if terminal
            else None
        )

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def show(self, row: Mapping[str, Any], *, always: bool = False) -> None:
        """Shows a row of metrics; plain lines at most every few seconds."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._words(row))
            return
        now = time.monotonic()
        if always or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = _duration(row["seconds_left"])
            print(
                f"step {row['step']}/{self._total}  {self._words(row)}  "
                f"{row['images_per_second']:.0f} images/s  {left} left",
                flush=True,
            )

    def _words(self, row: Mapping[str, Any]) -> str:
        first = [f"epoch {row['epoch']}", f"loss {row['loss']:.3f}"]
        return "  ".join([*first, *self._brief(row), f"lr {row['learning_rate']:.4f}"])

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Silent:
    """Stands for both in all processes but the first, of which alone one hears."""

    def _nothing(self, *args: Any, **options: Any) -> None:
        pass

    advance = show = say = write = close = _nothing


class MetricsLog:
    """Rows of metrics in a workdir: metrics.jsonl, and TensorBoard if asked for."""

    def __init__(self, workdir: Path, *, tensorboard: bool, keep_until: int):
        self.folder = workdir
        self._path = workdir / METRICS_FILE
        with writing(self._path):
            _drop_rows_after(self._path, keep_until)
            self._file = self._path.open("a", encoding="utf-8")
        self._writer = None
        if tensorboard:
            with _writing_for_tensorboard(workdir):
                self._writer = _Events(workdir)

    def write(self, row: Mapping[str, Any]) -> None:
        with writing(self._path):
            os.stat(self._path)  # a file that was removed would still take rows
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._writer is not None:
            with _writing_for_tensorboard(self.folder):
                self._writer.write(row)

    def close(self) -> None:
        with writing(self._path):
            self._file.close()
        if self._writer is not None:
            with _writing_for_tensorboard(self.folder):
                self._writer.close()


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, each with its step.

    Lines that are none, as where the file was cut short, are left out with a warning.
    """
    path = workdir / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = [row for row in map(_row_of, lines) if row is not None]
    if len(rows) < len(lines):
        logging.warning(
            "%s: %d of %d lines cannot be read and are left out",
            path,
            len(lines) - len(rows),
            len(lines),
        )
    return rows


def _row_of(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _drop_rows_after(path: Path, step: int) -> None:
    """Steps that are about to be taken again must not be listed twice."""
    rows = [row for row in read_rows(path.parent) if row["step"] <= step]
    with draft_of(path) as draft:
        lines = (json.dumps(row) + "\n" for row in rows)
        draft.write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _writing_for_tensorboard(workdir: Path) -> Iterator[None]:
    """Raises TrainingError for an OSError, with what to do about it."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{workdir}/events.* of TensorBoard could not be written ({reason(error)}): "
            f"{remedy(error)}"
        ) from error


class _Events:
    """Writes rows as events for TensorBoard, and raises OSError where it cannot.

    tensorboardX's SummaryWriter writes in a thread, whose errors nobody would see.
    """

    def __init__(self, workdir: Path):
        # Imported here: few runs write events.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        # Its names count seconds, and a file of the same name would be replaced.
        suffix = f".{time.time_ns()}"
        self._file = EventsWriter(str(workdir / "events"), filename_suffix=suffix)

    def write(self, row: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
        step = numbers.pop("step")
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items()
        ]
        summary = self._summary(value=values)
        self._file.write_event(
            self._event(wall_time=time.time(), step=step, summary=summary)
        )
        self._file.flush()  # so that a full disk is known at once

    def close(self) -> None:
        self._file.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )
