"""The wheel, in an environment of its own, far from the sources."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from invariance_propagation.cli import shipped, usage
from invariance_propagation.train.journal import read_rows
from tests.tiny_run import CHANGES, ROOT

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGES = ("invariance_propagation", "configs")
QUIET = ("--quiet", "--disable-pip-version-check", "--no-deps")


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments), *QUIET]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the libraries of this one."""
    home = tmp_path_factory.mktemp("installed")
    sources = home / "sources"  # a build leaves files behind
    sources.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, sources)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    pip("wheel", "--no-build-isolation", f"--wheel-dir={home}", sources)
    shutil.rmtree(sources)
    (wheel,) = home.glob("*.whl")
    environment = home / "environment"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", environment], check=True
    )
    pip(f"--python={environment}/bin/python", "install", wheel)
    (libraries,) = environment.glob("lib/python*/site-packages")
    (libraries / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def run(environment: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [environment / "bin" / "invariance-propagation", *flags],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_nothing_but_the_package_is_installed(installed: Path) -> None:
    (libraries,) = installed.glob("lib/python*/site-packages")
    names = {path.name for path in libraries.iterdir() if path.suffix != ".pth"}
    assert {name.partition("-")[0] for name in names} == {"invariance_propagation"}
    package = libraries / "invariance_propagation"
    assert (package / "py.typed").is_file()
    there = {path.stem for path in (package / "configs").glob("[!_]*.py")}
    assert there == set(shipped.names())


def test_help_lists_tasks_and_configs_without_jax(
    installed: Path, tmp_path: Path
) -> None:
    begun = time.monotonic()
    done = run(installed, tmp_path, "--help")
    took = time.monotonic() - begun
    assert (done.returncode, done.stderr) == (0, "")
    methods = ("coke", "odc", "unmix")
    for name in ("pretrain", "verify_resume", "export", *methods, *shipped.names()):
        assert f"\n  {name} " in done.stdout, name
    assert "\n  invariance-propagation --config=digits --workdir=" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    code = "from invariance_propagation.cli import main; main(); import sys; "
    code += "assert not {'jax', 'numpy'} & set(sys.modules)"
    script = [sys.executable, "-c", code, "--help"]
    assert subprocess.run(script, cwd=ROOT, capture_output=True).returncode == 0
    assert took < 10  # a third of a second where nothing else runs


def test_help_lists_a_method_that_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    configs = shutil.copytree(shipped.FOLDER, tmp_path / "configs")
    (configs / "methods" / "single.py").touch()
    methods = shutil.copytree(usage.METHODS, tmp_path / "methods")
    (methods / "single.py").write_text('"""A method in one file (of a test)."""\n')
    monkeypatch.setattr(shipped, "FOLDER", configs)
    monkeypatch.setattr(usage, "METHODS", methods)
    usage.print_usage()
    assert "  single          A method in one file\n" in capsys.readouterr().out


def test_a_demo_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    changes = CHANGES | {"train.epochs": 1, "augmentation": "host"}
    # Worker processes import the command's script, not main.py.
    changes |= {"train.num_workers": 1, "num_devices": 1}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    done = run(installed, tmp_path, "--config=digits", "--workdir=run", *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "knn trained" in done.stdout
    assert "\nnext: invariance-propagation --config=configs/report.py " in done.stdout
    assert read_rows(tmp_path / "run")[-1]["step"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("config", ["digits", "configs/digits.py", "mine.py"])
def test_a_config_is_found_from_an_empty_folder(
    installed: Path, tmp_path: Path, config: str
) -> None:
    (tmp_path / "mine.py").write_text("from configs.digits import get_config\n")
    # It is read before the next thing that is missing is named.
    done = run(installed, tmp_path, f"--config={config}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --workdir is missing")
