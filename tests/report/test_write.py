"""The whole page: from a workdir to a file that needs nothing else."""

import errno
import functools
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from invariance_propagation import phases
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import write_card
from invariance_propagation.report import write as module
from invariance_propagation.report import write_report
from invariance_propagation.report.write import names
from invariance_propagation.train.monitor import write_summary
from tests.made_card import make_card
from tests.report.finished_run import finish_run
from tests.stored_run import NUM_EXAMPLES

HEADINGS = ["Summary", "Curves", "Health", "Propagation", "Nearest neighbours", "Map"]
HEADINGS += ["Config and versions"]
EMPTY = {"meta", "link", "img", "br"}  # elements that are not closed


class Page(HTMLParser):
    """Parses a page, and checks that every element is closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.headings: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]

    def section(self, heading: str) -> str:
        return self.source.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = finish_run(tmp_path_factory.mktemp("runs") / "small")
    write_report(workdir=str(workdir), output="")
    return workdir


@pytest.fixture(scope="module")
def page(workdir: Path) -> Page:
    return Page(workdir / "report.html")


def test_every_part_is_there_and_can_be_reached(page: Page) -> None:
    assert page.headings == HEADINGS
    assert "<title>Report: small</title>" in page.source
    ids = page.values("section", "id")
    assert [f"#{name}" for name in ids] == page.values("a", "href")


def test_the_page_needs_nothing_else(workdir: Path, page: Page) -> None:
    assert all(uri.startswith("data:image/") for uri in page.values("img", "src"))
    assert not re.search("https?:|<script|<iframe|@import|url\\(", page.source)
    assert not {n for _, n, _ in page.attributes if n.startswith("on")}
    assert page.values("meta", "content")[-1].startswith("default-src 'none'; ")
    assert (workdir / "report.html").stat().st_size < 5e6


def test_every_picture_says_what_it_is(page: Page) -> None:
    assert len(page.values("img", "alt")) == len(page.values("img", "src")) > 50
    assert all(page.values("img", "alt"))


def test_figures_are_those_of_the_run(page: Page) -> None:
    summary = page.section("Summary")
    for name, value in {
        "training images": f"{NUM_EXAMPLES} of digits",
        "steps done": "9",
        "epochs done": "3",
        "method": "invariance_propagation",
        "propagation": "from epoch 1 on",
        "kNN, features": "75.00 %",
        "purity of the positives": "50.00 %",
    }.items():
        assert f'<th scope="row">{name}</th><td>{value}</td>' in summary
    assert "method.num_hops = 3" in page.section("Config and versions")
    assert "<td>1.2.3</td>" in page.section("Config and versions")


def test_what_limits_the_meaning_of_scores_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = finish_run(tmp_path / "alike")
    whole = sources.load

    @functools.wraps(whole)
    def of_one_class(*given, **options) -> Dataset:
        dataset = whole(*given, **options)
        alike = [
            x._replace(labels=np.zeros_like(x.labels))
            for x in (dataset.train, dataset.held_out)
        ]
        return dataset._replace(train=alike[0], held_out=alike[1])

    monkeypatch.setattr(sources, "load", of_one_class)
    write_report(workdir=str(workdir), output="")
    of_labels = "one class: every answer is right, whatever was learnt."
    assert of_labels in Page(workdir / "report.html").section("Summary")
    # Of a run whose images are gone, what it noted itself is known.
    monkeypatch.undo()
    write_summary(workdir, {"remarks": ["the graph never settled"]})
    write_report(workdir=str(workdir), output="")
    summary = Page(workdir / "report.html").section("Summary")
    assert "the graph never settled." in summary and of_labels not in summary


def test_galleries_show_anchors_and_held_out_images(page: Page) -> None:
    propagation = page.section("Propagation")
    assert propagation.count("<b>anchor</b>") == 8
    assert propagation.count("<b>hop 3: ") == 8
    assert 'class="picture chosen pixelated"' in propagation
    assert 'class="picture negative pixelated"' in propagation
    assert page.section("Nearest neighbours").count("<b>held out</b>") == 10


def test_the_workdir_is_only_added_to(workdir: Path) -> None:
    found = sorted(path.name for path in workdir.iterdir())
    assert found == ["checkpoints", "metrics.jsonl", "report.html"]


def test_the_same_run_has_the_same_page(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    path = write_report(workdir=str(workdir), output=str(tmp_path / "again.html"))
    assert path == tmp_path / "again.html"
    assert path.read_bytes() == (workdir / "report.html").read_bytes()
    lines = capsys.readouterr().out.splitlines()
    for phase in (f"reading {workdir.name}", "drawing the page"):
        assert any(line.startswith(f"{phase}: ") for line in lines), phase
    assert lines[-1].startswith(f"report: {path} (")


def test_runs_stand_side_by_side(workdir: Path, tmp_path: Path) -> None:
    other = finish_run(tmp_path / "other", num_hops=1)
    pixels = make_card(encoder="raw pixels", checkpoint={}, network={})
    cards = (make_card(), pixels, make_card(protocol="knn", encoder="<step>"))
    for card in cards:
        write_card(card, other)
    (other / "cards" / "broken.json").write_text("{")
    path = write_report(workdir=f"{workdir}, {other}", output=str(tmp_path / "2.html"))
    page = Page(path)
    assert page.headings == [*HEADINGS[:-1], "Evaluation", HEADINGS[-1]]
    assert "small beside other" in page.source
    assert page.section("Propagation").count("<h3>other</h3>") == 8
    cards = page.section("Evaluation")
    assert cards.count("<table>") == 2  # of a kind each
    assert "<h3>linear on digits: 1,347 images with labels, 450 to test" in cards
    row = "<td>91.00 ± 1.41</td><td>100.00 ± 0.00</td></tr>"
    assert f'<th scope="row">other: step 7</th>{row}<tr>' in cards
    assert f'<th scope="row">raw pixels</th>{row}</table>' in cards
    assert "<summary>other: &lt;step&gt;</summary>" in cards
    assert "broken.json is no evaluation card" in page.section("Summary")
    config = page.section("Config and versions")
    differ = config.split("Where the configs differ</h3>")[1].split("</table>")[0]
    assert differ.count('scope="row"') == 1
    assert "method.num_hops</th><td>3</td><td>1</td>" in differ


def test_a_method_of_ones_own_with_a_graph_has_all_but_its_positives(
    workdir: Path, tmp_path: Path
) -> None:
    own = finish_run(tmp_path / "own", method={"name": "my_method:f", "beta": 2.0})
    page = Page(write_report(workdir=str(own), output=""))
    assert page.headings == [h for h in HEADINGS if h != "Propagation"]
    beside = write_report(workdir=f"{own},{workdir}", output="")
    assert beside == own / "comparison.html"  # its own page stays
    assert Page(beside).section("Propagation").count("<b>anchor</b>") == 8


def test_a_run_without_checkpoint_has_curves(tmp_path: Path) -> None:
    workdir = finish_run(tmp_path / "young", checkpoint=False)
    page = Page(write_report(workdir=str(workdir), output=""))
    assert page.headings == ["Summary", "Curves"]
    assert "There is no checkpoint yet" in page.section("Summary")


def test_without_the_data_pictures_are_left_out(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(dataset):
        images = np.roll(dataset.train.images, 1, axis=0)
        return dataset._replace(train=dataset.train._replace(images=images))

    @functools.wraps(sources.load)
    def load_others(**options):
        return change(load(**options))

    load = sources.load
    monkeypatch.setattr(sources, "load", load_others)
    page = Page(write_report(workdir=str(workdir), output=str(tmp_path / "x.html")))
    left = [name for name in HEADINGS if name not in HEADINGS[3:5]]
    assert page.headings == left
    assert "no longer those of the run" in page.section("Summary")


@pytest.mark.parametrize(
    "workdir, output, expected",
    [
        ("", "", "^--workdir is missing"),
        (" , ", "", "^--workdir is missing"),
        ("{there}/nowhere", "", "--workdir=.*: there is no such folder"),
        ("{there}", "", "holds no metrics.jsonl with rows"),
        ("{there}", "page.pdf", "set --config.output to a .html file"),
        ("{there}", "{there}/nowhere/page.html", "in a folder that exists"),
        ("{there},{there}/../{name}", "", "one is listed twice"),
    ],
)
def test_bad_input_is_told(
    tmp_path: Path, workdir: str, output: str, expected: str
) -> None:
    place = {"there": tmp_path, "name": tmp_path.name}
    with pytest.raises(UserError, match=expected):
        write_report(workdir=workdir.format(**place), output=output.format(**place))
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_stays(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(module, "render", lambda records: "<p>page</p>")
    with pytest.raises(
        UserError, match="cannot be written .read-only.: set --config.o"
    ):
        write_report(workdir=str(workdir), output=str(tmp_path / "page.html"))
    assert not list(tmp_path.iterdir())


def test_runs_are_called_by_what_tells_them_apart() -> None:
    assert names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert names([Path("one/run"), Path("two/run")]) == ["one/run", "two/run"]
    assert names([Path("/")]) == ["/"]


@pytest.mark.parametrize("name", ["runs[1]\\ \udcff", "a,b", "$a_$b$", " a "])
def test_a_run_of_any_name_has_its_page(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    finish_run(tmp_path / name)
    for given in (str(tmp_path / name), f"~/{name}"):
        page = Page(write_report(workdir=given, output="~/page.html"))
        assert page.headings == HEADINGS
    finish_run(tmp_path / "other")
    if "," not in name and name.strip() == name:
        write_report(workdir=f"~/{name},~/other", output="")
        assert (tmp_path / name / "comparison.html").is_file()


def test_places_are_looked_at_before_the_page_is_made(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "render", None)
    with pytest.raises(UserError, match="workdir=gs://b/x is an address"):
        write_report(workdir=f"{workdir},gs://b/x", output="")
    with pytest.raises(UserError, match="output=gs://b/x.html is an address"):
        write_report(workdir=str(workdir), output="gs://b/x.html")

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"\(Read-only file system\).*--config.output"):
        write_report(workdir=str(workdir), output="")
