"""Writes report.html from workdirs."""

import os
from collections.abc import Sequence
from pathlib import Path

import tqdm

from invariance_propagation.errors import ENCODABLE, UserError, printable
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import check_file, local, reason
from invariance_propagation.phases import phase
from invariance_propagation.report import page, sections
from invariance_propagation.report.record import Record, read_record

FILE = "report.html"
FILE_OF_SEVERAL = "comparison.html"
SUFFIXES = (".html", ".htm")


def write_report(*, workdir: str, output: str) -> Path:
    """Writes one page about a run, or about several side by side.

    Args:
      workdir: the run's folder; several with commas between them.
      output: the file to write; '' for report.html in the workdir or, for several runs,
        comparison.html in the first.

    Returns:
      The path of the file.

    Raises:
      UserError: there is no run, or the file cannot be written.
      TrainingError: a checkpoint or a picture cannot be read. In both cases nothing has
        been written.
    """
    folders = _folders(workdir)
    if not folders:
        raise UserError(
            "--workdir is missing: name that of a run, or of several with commas between "
            "them"
        )
    name = FILE if len(folders) == 1 else FILE_OF_SEVERAL
    path = local(output, key="output") if output else folders[0] / name
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"output={output}: set --config.output to a .html file")
    if path.is_dir() or output and not path.parent.is_dir():
        raise UserError(
            f"output={output}: set --config.output to a file in a folder that exists"
        )
    records = []
    for run, folder in zip(names(folders), folders, strict=True):
        with phase(f"reading {run}"):
            records.append(read_record(run, folder))
    check_file(path, key="--config.output")
    with phase("drawing the page"):
        html = render(records)
    _write(path, html)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def _folders(workdir: str) -> list[Path]:
    """Returns the folders of a list with commas, or the one folder of that name."""
    if workdir and os.path.isdir(os.path.expanduser(workdir)):
        return [local(workdir, key="--workdir")]
    names = (name.strip() for name in workdir.split(","))
    return [local(name, key="--workdir") for name in names if name]


def render(records: Sequence[Record]) -> str:
    """Builds the page, with a progress bar on a terminal."""
    made = {}
    bar = tqdm.tqdm(sections.SECTIONS.items(), unit="part", disable=None, leave=False)
    with bar:
        for heading, make in bar:
            bar.set_postfix_str(heading)
            made[heading] = make(records)
            if heading == sections.HEALTH:
                made |= sections.galleries(records)
    shown = " beside ".join(record.name for record in records)
    return page.page(f"Report: {shown}", made)


def names(folders: Sequence[Path]) -> list[str]:
    """Names each run by the shortest end of its path that no other run has.

    Bytes that are not text are escaped.
    """
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(parts[-length:]) for parts in paths]
        if len(set(ends)) == len(ends):
            return [printable(end) for end in ends]
    raise UserError(f"workdir={','.join(map(str, folders))}: one is listed twice")


def _write(path: Path, html: str) -> None:
    """Writes the whole file or nothing."""
    try:
        with draft_of(path) as draft:
            # Names of files and folders may hold bytes that are not UTF-8.
            draft.write_text(html, encoding="utf-8", errors=ENCODABLE)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({reason(error)}): set --config.output to another "
            "file"
        ) from error
