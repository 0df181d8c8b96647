"""A report in Chromium: quiet, alone, and no wider than its window.

Beside the suite, as it needs a browser and Playwright (pip install playwright):

    pytest tests/browser/check_report.py

Pages as people see them are left in runs/screenshots.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from invariance_propagation.report import write_report
from tests.report.finished_run import finish_run

SCREENSHOTS = Path("runs/screenshots").absolute()
WIDTHS = (1280, 400)  # of a desk and of a phone


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """REPORT=runs/digits/report.html in the environment, or one of a small run."""
    if "REPORT" in os.environ:
        return Path(os.environ["REPORT"]).absolute()
    folder = tmp_path_factory.mktemp("runs")
    runs = [finish_run(folder / "one"), finish_run(folder / "other", num_hops=1)]
    return write_report(workdir=",".join(map(str, runs)), output="")


@contextlib.contextmanager
def chromium() -> Iterator:
    """The system's own, without a window."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "apt-get install chromium"
    # Chromium's sandbox does not start for root, as in containers.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=root)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as found:
        yield found


def faults(address: str, browser, width: int) -> list[str]:
    """What is wrong with a page when all that is folded has been unfolded."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    found, asked = [], []
    page.on("console", lambda message: found.append(f"says {message.text}"))
    page.on("pageerror", lambda error: found.append(f"fails: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    for summary in page.locator("summary").all():
        summary.click()
    others = [url for url in asked if url != address and not url.startswith("data:")]
    found += [f"asks for {url}" for url in others]
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        found.append(f"is {wide} pixels wide")
    if page.evaluate("[...document.images].some(image => !image.naturalWidth)"):
        found.append("has a broken image")
    for link in page.locator("nav a").all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        if not -1 <= target.bounding_box()["y"] < 900:
            found.append(f"does not scroll to {link.inner_text()}")
    page.evaluate("window.scrollTo(0, 0)")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = f"{Path(address).stem}-{width}.png"
    page.screenshot(path=SCREENSHOTS / name, full_page=True)
    page.close()
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_has_no_faults(report: Path, browser, width: int) -> None:
    assert faults(report.as_uri(), browser, width) == []


@pytest.mark.parametrize(
    "html, fault",
    [
        ("<script>oops()</script>", "fails: oops is not defined"),
        ("<script>console.log('hm')</script>", "says hm"),
        ("<img src='http://localhost:9/x'>", "asks for http://localhost:9/x"),
        ("<img src='data:,no'>", "has a broken image"),
        ("<p style='width: 900px'>wide</p>", "is 908 pixels wide"),
    ],
)
def test_faults_are_seen(tmp_path: Path, browser, html: str, fault: str) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(f"<!DOCTYPE html>{html}")
    assert fault in faults(bad.as_uri(), browser, 400)
