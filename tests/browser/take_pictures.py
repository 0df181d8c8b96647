"""The pictures of README and docs: parts of a run's report as Chromium shows them.

    pip install playwright
    python -m tests.browser.take_pictures runs/fashion_mnist/report.html propagation
    python -m tests.browser.take_pictures runs/digits/report.html map

They are left in docs/pictures. The third is the program's own:

    python main.py --config=configs/fashion_mnist.py --config.task=preview \
        --config.output=docs/pictures/preview.png
"""

import argparse
from pathlib import Path

from tests.browser.check_report import chromium

FOLDER = Path("docs/pictures")
# Which parts of the page, how many pixels of the first from its top, width of the page.
PARTS = {
    "propagation": ("section#propagation", 655, 760),
    "map": ("section#map figure:last-of-type", 700, 700),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("part", choices=PARTS)
    options = parser.parse_args()
    place, height, width = PARTS[options.part]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{options.part}.png"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(options.report.absolute().as_uri())
        box = page.locator(place).first.bounding_box()
        box["height"] = min(box["height"], height)
        page.screenshot(path=path, clip=box, full_page=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
