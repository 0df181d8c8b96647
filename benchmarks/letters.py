"""Capital letters in 856 fonts, 28 pixels, grey: a third real set to train on.

    python benchmarks/letters.py runs/letters_data

The fonts are those of Debian's package texlive-fonts-extra (free licences; 509 MB, which
apt downloads and which are not kept; `--package` names a copy). It needs Debian 12. Whole
families of fonts are held out: what is learnt has to hold for shapes never seen. The four
files have the names and the format of Fashion-MNIST's; configs/letters.py trains on them.
"""

import argparse
import fnmatch
import gzip
import hashlib
import io
import shutil
import string
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tqdm
from PIL import Image, ImageFont

PACKAGE, VERSION = "texlive-fonts-extra", "2022.20230122-4"
FILE = f"{PACKAGE}_{VERSION}_all.deb"
SHA256 = "abddeda6b66ee9c38df1f7fd2d20670b25f3a738df74c0ee91001f6b1466b1e4"
# Their capitals are ornaments, signals or symbols.
NO_LETTERS = ("smf*", "FeFlow*", "FourierOrns*", "drmsym*", "QTDingBits*")
LETTERS = string.ascii_uppercase
MOST = 14  # fonts of one family, so that no family outweighs the others
HELD_OUT_EVERY = 5  # every fifth family is held out
SIZE, BOX = 28, 22  # pixels: of a picture, and of the longer side of a letter in it
DRAWN = 96  # pixels per em before a letter is scaled down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the four files go")
    parser.add_argument("--package", type=Path, help=f"a copy of {FILE}")
    options = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        sys.exit("error: dpkg-deb is missing: run this on Debian or Ubuntu")
    with tempfile.TemporaryDirectory() as scratch:
        package = options.package or fetch(Path(scratch))
        check(package)
        families = read_families(package)
    splits: dict[str, list] = {"train": [], "t10k": []}
    for number, name in enumerate(sorted(families)):
        held_out = number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        splits["t10k" if held_out else "train"] += choose(families[name])
    options.folder.mkdir(parents=True, exist_ok=True)
    for prefix, fonts in splits.items():
        images = np.concatenate(fonts)
        labels = np.tile(np.arange(len(LETTERS), dtype=np.uint8), len(fonts))
        write_idx(options.folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(options.folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
        digest = hashlib.sha256(images.tobytes()).hexdigest()[:16]
        print(f"{prefix}: {len(images):,} letters in {len(fonts)} fonts, {digest}")
    print(f"{len(families)} families of fonts; the files are in {options.folder}")


def fetch(folder: Path) -> Path:
    """Lets apt download the package, with its own progress."""
    command = ["apt-get", "download", f"{PACKAGE}={VERSION}"]
    # apt's own user may not write into a folder of root.
    command += ["-o", "APT::Sandbox::User=root"]
    if (
        shutil.which("apt-get") is None
        or subprocess.run(command, cwd=folder).returncode
    ):
        sys.exit(
            f"error: apt-get could not download {PACKAGE} {VERSION}, which is Debian 12's."
            f" Run `apt-get update` there, or name a copy of {FILE} with --package"
        )
    return folder / FILE


def check(package: Path) -> None:
    try:
        with package.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        sys.exit(f"error: {package} cannot be read ({error.strerror})")
    if found != SHA256:
        sys.exit(f"error: {package} is not {FILE}: its SHA-256 is {found}")


def read_families(package: Path) -> dict[str, list[np.ndarray]]:
    """Draws the letters of every font, uint8 [26, 28, 28], by family in order."""
    drawn: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    with tqdm.tqdm(unit="font", desc="drawing the letters") as bar:
        for name, content in fonts_of(package):
            letters = draw(content)
            bar.update()
            if letters is not None:
                _, family, file = name.rsplit("/", 2)
                drawn[family][file] = letters
    return {
        family: [fonts[file] for file in sorted(fonts)]
        for family, fonts in drawn.items()
    }


def fonts_of(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yields path and content of each OpenType and TrueType font."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                wanted = name.lower().endswith((".otf", ".ttf"))
                if any(fnmatch.fnmatch(name, pattern) for pattern in NO_LETTERS):
                    continue
                if wanted and member.isfile():
                    yield member.name, archive.extractfile(member).read()


def draw(font: bytes) -> np.ndarray | None:
    """Draws A to Z, uint8 [26, 28, 28]; None if the font does not have them all."""
    try:
        face = ImageFont.truetype(
            io.BytesIO(font), DRAWN, layout_engine=ImageFont.Layout.BASIC
        )
        missing, *shapes = (shape(face, text) for text in ("\uffff", *LETTERS))
    except OSError:
        return None
    contents = {image.tobytes() for image in shapes}
    empty = any(image.getbbox() is None for image in shapes)
    if empty or len(contents) < len(LETTERS) or missing.tobytes() in contents:
        return None
    return np.stack([fit(image) for image in shapes])


def shape(face: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    mask = face.getmask(text)
    image = Image.new("L", mask.size)
    image.im.paste(mask, (0, 0, *mask.size))
    return image


def fit(image: Image.Image) -> np.ndarray:
    """Scales a letter to fit the box, keeping its proportions, in the middle."""
    image = image.crop(image.getbbox())
    scale = BOX / max(image.size)
    size = [max(1, round(scale * side)) for side in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    framed = Image.new("L", (SIZE, SIZE))
    framed.paste(image, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(framed)


def choose(fonts: list[np.ndarray]) -> list[np.ndarray]:
    """Chooses at most MOST fonts of a family, evenly spread by the names of their files."""
    places = np.linspace(0, len(fonts) - 1, min(MOST, len(fonts)))
    return [fonts[round(place)] for place in places]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">xxBB{array.ndim}I", 8, array.ndim, *array.shape)
    # No time and no name inside: the same fonts give the same file.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(header + array.tobytes())


if __name__ == "__main__":
    main()
