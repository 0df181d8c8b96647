"""Writes the section of docs/performance.md that `accelerator.py` measured.

python benchmarks/accelerator_page.py runs/accelerator > section.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    folder = Path(sys.argv[1])
    paths = [*folder.glob("*.json"), *folder.glob("*.failed")]
    records = {path.stem: json.loads(path.read_text()) for path in paths}
    if not records:
        sys.exit(f"{folder} holds no results: run benchmarks/accelerator.py first")
    print("\n".join(page(records)))


def page(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of the section, for the stages that there are."""
    first = next(iter(records.values()))
    versions = ", ".join(f"{name} {x}" for name, x in first["versions"].items())
    device = next((x["devices"] for x in records.values() if "devices" in x), "?")
    yield "## On an accelerator\n"
    yield f"{device}; {first['machine']}; Python {first['python']}, {versions}; "
    yield f"{first['date']}: `{first['command']}`.\n"
    for stage, record in sorted(records.items()):
        yield f"### {stage}\n"
        yield f"{record['seconds']} s.\n"
        if "failed" in record:
            yield "    " + "\n    ".join(record["failed"]) + "\n"
            continue
        yield from rows(record)
        yield ""


def rows(record: dict[str, Any]) -> Iterator[str]:
    """Yields a table of what a stage returned, one row for each of its cases."""
    known = {"command", "date", "machine", "python", "versions", "stage", "seconds"}
    found = {name: x for name, x in record.items() if name not in known}
    yield "| case | | |"
    yield "|---|---|---|"
    for name, value in found.items():
        for key, x in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"| {name} | {key} | {shown(x)} |"


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(x)}" for name, x in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
