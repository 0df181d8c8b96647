"""Installs what is missing here, and leaves JAX as it is.

Notebook services come with a JAX that knows their accelerator; another one may not.
"""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
KEPT = re.compile(
    r"jax|jaxlib|jax-cuda\d+-(plugin|pjrt)|libtpu(-nightly)?"
    # A kernel may have loaded these, and TensorFlow goes with few versions of them.
    r"|numpy|protobuf"
)


def install_missing(*extras: str) -> None:
    """Makes all that this package needs importable.

    Args:
      extras: of pyproject.toml, to install too.

    Raises:
      RuntimeError: what may not be replaced is too old, or pip failed.
    """
    missing = [need for need in needs_of(extras) if not _is_there(need)]
    if not missing:
        print("all packages are there already")
        return
    kept = _kept()
    for need in missing:
        if need.name in kept:
            raise RuntimeError(
                f"{need.name} {kept[need.name]} is installed here, but {need} is "
                "needed: install that for your accelerator (README, Install), restart "
                "the session, and run this again"
            )
    print(f"installing {', '.join(map(str, missing))}")
    print("left as they are:", ", ".join(f"{name} {kept[name]}" for name in kept))
    _pip_install(missing, kept)
    importlib.invalidate_caches()


def needs_of(extras: Iterable[str]) -> list[Requirement]:
    """Reads from pyproject.toml what the package needs, with some of its extras."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def _is_there(need: Requirement) -> bool:
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return False
    return need.specifier.contains(version, prereleases=True)


def _kept() -> dict[str, str]:
    """Versions of the packages that must not change, by name."""
    found = {canonicalize_name(x.name): x.version for x in metadata.distributions()}
    return {name: found[name] for name in sorted(found) if KEPT.fullmatch(name)}


def _pip_install(missing: Iterable[Requirement], kept: Mapping[str, str]) -> None:
    with TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        lines = [f"{name}=={version}\n" for name, version in kept.items()]
        constraints.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        command += ["--disable-pip-version-check", f"--constraint={constraints}"]
        command += map(str, missing)
        pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        raise RuntimeError(f"pip could not install them:\n{pip.stderr.strip()}")
