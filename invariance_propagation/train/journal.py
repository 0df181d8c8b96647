"""What a run shows and keeps: a bar or plain lines, and metrics.jsonl."""

import collections
import contextlib
import itertools
import json
import logging
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tqdm

from invariance_propagation.errors import TrainingError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import reason, remedy, writing
from invariance_propagation.phases import clock

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0
USUAL = 51  # steps whose median length the forecast counts on


class Progress:
    """A bar with the latest figures under it on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        start: int,
        total: int,
        *,
        brief: Callable[[Mapping[str, Any]], list[str]] = lambda row: [],
    ):
        """Prepares the bar, which appears after the first step: that one compiles.

        Args:
          start: steps done already.
          total: steps of the run.
          brief: row of metrics -> phrases of the method to show with it.
        """
        self._done, self._total, self._brief = start, total, brief
        self._last_line = time.monotonic()
        self._terminal = _shows_bars()
        self._bar: _Bar | None = None
        self._lines: list[tqdm.tqdm] = []

    def advance(self) -> None:
        """Counts a step."""
        self._done += 1
        if self._bar is not None:
            self._bar.step()
        elif self._terminal:
            self._bar = _Bar(
                initial=self._done, total=self._total, unit="step", dynamic_ncols=True
            )

    def show(self, row: Mapping[str, Any], *, always: bool = False) -> None:
        """Shows a row of metrics; plain lines at most every few seconds."""
        words = [f"epoch {row['epoch']}", f"loss {row['loss']:.3f}", *self._brief(row)]
        rate = f"lr {row['learning_rate']:.4f}"
        if self._bar is not None:
            self._bar.set_postfix_str(rate)
            self._write_under_bar(words)
            return
        now = time.monotonic()
        if always or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = clock(row["seconds_left"])
            print(
                f"step {row['step']}/{self._total}  {'  '.join([*words, rate])}  "
                f"{row['images_per_second']:.0f} images/s  {left} left",
                flush=True,
            )

    def _write_under_bar(self, words: list[str]) -> None:
        texts = wrapped(words, shutil.get_terminal_size().columns - 1)
        while len(self._lines) < len(texts):
            place = len(self._lines) + 1
            line = tqdm.tqdm(
                total=0, bar_format="{desc}", position=place, dynamic_ncols=True
            )
            self._lines.append(line)
        for line, text in itertools.zip_longest(self._lines, texts, fillvalue=""):
            line.set_description_str(text)

    def close(self) -> None:
        """Leaves what was shown last on the terminal."""
        for bar in (self._bar, *self._lines):
            if bar is not None:
                bar.close()


def _shows_bars() -> bool:
    """Returns whether stderr is a terminal; tqdm is silent on one that claims no size."""
    if not sys.stderr.isatty():
        return False
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except OSError:  # it has no size to ask for
        return True


class _Bar(tqdm.tqdm):
    """A bar whose forecast counts on steps of the usual length.

    That is the median of the latest ones: a pause, as for kNN or for a program that is
    compiled, does not come with every step.
    """

    def __init__(self, **options: Any):
        self._lengths: collections.deque[float] = collections.deque(maxlen=USUAL)
        self._last = time.monotonic()
        super().__init__(**options)

    def step(self) -> None:
        """Counts a step, and how long it took."""
        now = time.monotonic()
        self._lengths.append(now - self._last)
        self._last = now
        self.update()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm shows; `rate` is what it forecasts by."""
        usual = statistics.median(self._lengths) if self._lengths else 0.0
        return super().format_dict | {"rate": 1 / usual if usual else None}


def wrapped(words: list[str], width: int) -> list[str]:
    """Puts phrases on lines of at most `width` characters, none of them cut in two."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= width:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


class Silent:
    """No-op stand-in for Progress and MetricsLog on every process but the first."""

    def _nothing(self, *args: Any, **options: Any) -> None:
        pass

    advance = show = write = close = _nothing


class MetricsLog:
    """Rows of metrics in a workdir: metrics.jsonl, and TensorBoard if asked for."""

    def __init__(
        self,
        workdir: Path,
        *,
        tensorboard: bool,
        keep_until: int,
        check: Callable[[], None] = lambda: None,
    ):
        """Opens the files; drops rows after the step `keep_until`.

        `check` is called before each row, and raises an error if none may be written.
        """
        self.folder, self._check = workdir, check
        self._path = workdir / METRICS_FILE
        with writing(self._path):
            _drop_rows_after(self._path, keep_until)
            self._file = self._path.open("a", encoding="utf-8")
        self._writer = None
        if tensorboard:
            with _writing_for_tensorboard(workdir):
                self._writer = _Events(workdir)

    def write(self, row: Mapping[str, Any]) -> None:
        self._check()
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
    """Reads the rows of metrics.jsonl, each with its step.

    Lines that cannot be read, as where the file was cut short, are left out with a warning.
    """
    path = workdir / METRICS_FILE
    try:
        with open_file(path) as file:
            lines = file.read().decode("utf-8", "replace").splitlines()
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
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(map(_is_of_a_row, row.values())) else None


def _is_of_a_row(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return all(x is None or isinstance(x, int | float) for x in numbers)


def _drop_rows_after(path: Path, step: int) -> None:
    """Drops the rows of steps that are about to be taken again."""
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
