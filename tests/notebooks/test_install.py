"""pip is asked for what is missing alone, and may not touch JAX."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from notebooks import install

ALL = {need.name: "99" for need in install.needs_of(["export"])}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Of a machine that has these packages; returns the calls of pip, as they come."""

    def build(installed: Mapping[str, str], *, fault: str = "") -> list:
        def version(name: str) -> str:
            try:
                return installed[name]
            except KeyError:
                raise install.metadata.PackageNotFoundError(name) from None

        def run(command: list[str], **options) -> SimpleNamespace:
            (constraints,) = (x for x in command if x.startswith("--constraint="))
            lines = Path(constraints.partition("=")[2]).read_text().splitlines()
            calls.append((command, lines))
            return SimpleNamespace(returncode=bool(fault), stderr=fault)

        calls = []
        found = [SimpleNamespace(name=n, version=v) for n, v in installed.items()]
        monkeypatch.setattr(install.metadata, "version", version)
        monkeypatch.setattr(install.metadata, "distributions", lambda: found)
        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return build


def test_where_all_is_there_pip_is_left_alone(pretend, capsys) -> None:
    calls = pretend(ALL)
    install.install_missing("export")
    assert calls == [] and "there already" in capsys.readouterr().out


def test_what_is_missing_is_installed_around_jax(pretend, capsys) -> None:
    installed = ALL | {"jax": "0.11.1+local", "jaxlib": "0.11.0", "numpy": "2.1.0"}
    # As the authors of these have spelt them; jaxtyping, scipy are pip's to change.
    installed |= {"jax_cuda13_plugin": "0.11.0", "jax-cuda12-pjrt": "0.11.0"}
    installed |= {
        "libtpu": "0.0.30",
        "protobuf": "5.29.6",
        "jaxtyping": "0.3",
        "scipy": "1.16.0",
    }
    del installed["flax"]
    installed |= {"grain": "0.1", "onnx": "1.0"}
    calls = pretend(installed)
    install.install_missing()
    ((command, constraints),) = calls
    assert [need.partition(">=")[0] for need in command[-2:]] == ["flax", "grain"]
    assert command[1:4] == ["-m", "pip", "install"] and "--upgrade" not in command
    assert constraints == [
        "jax==0.11.1+local",
        "jax-cuda12-pjrt==0.11.0",
        "jax-cuda13-plugin==0.11.0",
        "jaxlib==0.11.0",
        "libtpu==0.0.30",
        "numpy==2.1.0",
        "protobuf==5.29.6",
    ]
    assert "jax 0.11.1+local" in capsys.readouterr().out


def test_without_jax_it_is_installed_too(pretend) -> None:
    calls = pretend({})
    install.install_missing("export")
    ((command, constraints),) = calls
    assert constraints == []
    wanted = {name.partition(">")[0] for name in command if ">=" in name}
    assert {"jax", "numpy", "onnx", "simplejpeg"} <= wanted


@pytest.mark.parametrize("name, version", [("jax", "0.4.38"), ("numpy", "1.26.4")])
def test_what_is_too_old_is_not_replaced(pretend, name: str, version: str) -> None:
    calls = pretend({**ALL, name: version})
    with pytest.raises(RuntimeError, match=f"{name} {version} is installed here, but"):
        install.install_missing()
    assert calls == []


def test_what_pip_says_is_passed_on(pretend) -> None:
    pretend({}, fault="ERROR: no space left")
    with pytest.raises(RuntimeError, match="no space left"):
        install.install_missing()
