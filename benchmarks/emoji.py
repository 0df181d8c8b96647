"""A folder of 1,911 real pictures in categories: Google's Noto emoji, 64 pixels.

    npm pack emoji-datasource-google@16.0.0
    tar xzf emoji-datasource-google-16.0.0.tgz package/img/google/64 package/emoji.json
    python benchmarks/emoji.py package runs/emoji_pictures

The package's licence is Apache-2.0. Files are copied, one folder a category.
"""

import argparse
import json
import re
import shutil
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="what was unpacked")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    options = parser.parse_args()
    listed = json.loads((options.package / "emoji.json").read_text(encoding="utf-8"))
    count = 0
    for emoji in listed:
        picture = options.package / "img" / "google" / "64" / emoji["image"]
        if emoji["has_img_google"] and picture.exists():
            category = re.sub(r"\W+", "_", emoji["category"].lower())
            place = options.folder / category / picture.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, place)
            count += 1
    print(f"{count:,} pictures in {options.folder}")


if __name__ == "__main__":
    main()
