"""The notebook: as it lies in the repository, cell by cell, and from top to bottom."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from safetensors.numpy import load_file

from tests.tiny_run import ROOT

PATH = ROOT / "notebooks" / "invariance_propagation_colab.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
CELLS = {cell.id: cell for cell in NOTEBOOK.cells}
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_it_holds_nothing_of_a_run() -> None:
    nbformat.validate(NOTEBOOK)
    for cell in CODE:
        assert cell.outputs == [] and cell.execution_count is None, cell.id
        assert set(cell.metadata) <= {"tags"}, cell.id
    text = PATH.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)\b", text)


def test_each_cell_is_short_and_explained() -> None:
    kinds = [cell.cell_type for cell in NOTEBOOK.cells]
    assert ("code", "code") not in zip(kinds, kinds[1:], strict=False)
    assert kinds[0] == "markdown"
    longest = max(CODE, key=lambda cell: cell.source.count("\n"))
    assert longest.source.count("\n") < 22, longest.id


def test_every_setting_is_explained() -> None:
    names = re.findall(r"^(\w+) = ", CELLS["settings"].source, re.MULTILINE)
    described = re.findall(r"^\| `(\w+)`", CELLS["about-settings"].source, re.MULTILINE)
    assert names == described and CELLS["settings"].metadata.tags == ["parameters"]


def run_cell(cell: str, /, **names: Any) -> dict[str, Any]:
    """The names that a cell leaves, after the settings as they are and these."""
    exec(CELLS["settings"].source, own := {"sys": sys, "Path": Path})
    exec(CELLS[cell].source, own := own | names)
    return own


@pytest.mark.parametrize(
    "backend, choice, expected",
    [
        ("cpu", "auto", "digits"),
        ("gpu", "auto", "cifar10"),
        ("tpu", "auto", "cifar10"),
        ("tpu", "digits", "digits"),
        ("cpu", "cifar10", "cifar10"),
    ],
)
def test_the_machine_decides_what_is_trained(
    monkeypatch: pytest.MonkeyPatch, backend: str, choice: str, expected: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = []
    names = {"jax": jax, "install_missing": wanted.append, "CONFIG": choice}
    left = run_cell("config", **names, EPOCHS=7, HOURS=2.0)
    train = left["config"].train
    assert left["config"].data.name == left["name"] == expected
    assert (train.epochs, train.stop_after_hours) == (7, 2.0)
    # TFDS prepares CIFAR-10 by TensorFlow, which TPU runtimes do not have.
    assert wanted == (["prepare"] if expected == "cifar10" else [])


def test_on_colab_runs_are_kept_in_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = []
    colab = ModuleType("google.colab")
    colab.drive = ModuleType("drive")
    colab.drive.mount = mounted.append
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    left = run_cell("folder", name="digits")
    in_drive = Path("/content/drive/MyDrive/invariance_propagation/digits")
    assert (left["workdir"], mounted) == (in_drive, ["/content/drive"])
    left = run_cell("folder", name="digits", FOLDER="/content/runs")
    assert left["workdir"] == Path("/content/runs/digits") and len(mounted) == 1


def test_elsewhere_they_are_kept_in_runs() -> None:
    assert run_cell("folder", name="digits")["workdir"].parts[-3:-1] == (
        "runs",
        "notebook",
    )


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs cells in a kernel of its own; it leaves nothing outside of `tmp_path`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("PJRT_NPROC")  # conftest's, for eight devices
    # It trains for a while, so that optimised programs are the quicker ones.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)

    def run(folder: Path, cells: list, **settings: Any) -> dict[str, list]:
        notebook = nbformat.v4.new_notebook(cells=[])
        for cell in cells:
            cell = nbformat.from_dict(cell)
            notebook.cells.append(cell)
            if cell.id == "settings":
                lines = [f"{name} = {value!r}" for name, value in settings.items()]
                cell.source += "\n" + "\n".join(lines)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=600, resources=resources).execute()
        return {cell.id: cell.get("outputs") for cell in notebook.cells}

    return run


def said(outputs: list) -> str:
    """What a cell has printed; nothing of it may be a warning."""
    streams = [output for output in outputs if output.output_type == "stream"]
    assert all(stream.name == "stdout" for stream in streams), streams
    return "".join(stream.text for stream in streams)


def test_the_code_is_cloned_where_it_is_not(execute, tmp_path: Path) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "content"
    (repository / "invariance_propagation").mkdir(parents=True)
    (repository / "invariance_propagation" / "__init__.py").touch()
    folder.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=A", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    cells = [CELLS["settings"], CELLS["code"]]
    with pytest.raises(CellExecutionError, match="fill in REPOSITORY"):
        execute(folder, cells)
    again = nbformat.from_dict(CELLS["code"] | {"id": "again"})
    outputs = execute(folder, [*cells, again], REPOSITORY=str(repository))
    clone = folder / "invariance-propagation"
    assert said(outputs["code"]) == said(outputs["again"]) == f"code: {clone}\n"
    # In another session it is found.
    shutil.rmtree(repository)
    assert said(execute(folder, cells)["code"]) == f"code: {clone}\n"


def test_it_runs_from_top_to_bottom(execute, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    settings = {"FOLDER": str(folder), "CONFIG": "digits", "EPOCHS": 12}
    cells = [nbformat.from_dict(cell) for cell in NOTEBOOK.cells]
    (config,) = (cell for cell in cells if cell.id == "config")
    config.source += "\nconfig.method.start_epoch = 11"  # of digits: 30
    outputs = execute(PATH.parent, cells, **settings)
    texts = {cell.id: said(outputs[cell.id]) for cell in CODE}
    assert "warning" not in "".join(texts.values()).lower()
    assert "there already" in texts["packages"]
    assert "at step 100 of 120" in texts["first"]
    assert "continuing from step 100" in texts["rest"]
    assert "propagation starts" in texts["rest"] and "knn trained: " in texts["rest"]
    (page,) = (x.data["text/html"] for x in outputs["report"] if "data" in x)
    assert 'src="data:text/html;base64,' in page
    weights = load_file(folder / "digits" / "backbone-120.safetensors")
    assert weights["conv1.weight"].shape[:2] == (16, 1)
    (sheet,) = (x.data for x in outputs["show"] if "data" in x)
    assert "image/png" in sheet
