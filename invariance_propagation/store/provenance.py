"""Says where a number comes from: commit, versions, machine and date."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from invariance_propagation.version import versions


def origin(num_devices: int | None = None) -> dict[str, Any]:
    """Describes this process for people, as JSON; outside a repository commit is None.

    Args:
      num_devices: how many devices were used; None: all.
    """
    devices = jax.devices()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "devices": f"{num_devices or len(devices)} x {devices[0].device_kind}",
        "versions": versions() | {"scikit-learn": metadata.version("scikit-learn")},
    }


def _commit() -> str | None:
    """Returns the commit of the repository that tracks this file."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", here.name], capture_output=True
        )
        if tracked.returncode:
            return None
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
        )
    except OSError:  # no git
        return None
    return described.stdout.strip() or None
