"""Kinds of picture files: which can be read here, and what would make others readable."""

import functools
from collections.abc import Mapping

from PIL import features

# What Pillow always reads and people call a picture.
ALWAYS = frozenset(".bmp .gif .jpeg .jpg .jp2 .png .ppm .tif .tiff .webp".split())
# Kinds that not every installation of Pillow reads: the package to install for each.
NEEDS: Mapping[str, str] = {
    ".avif": "pillow>=11.3",
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".hif": "pillow-heif",
}
# Brands, bytes 8 to 12 of such files.
HEIC = frozenset(b"heic heix hevc hevx heim heis mif1 msf1".split())
AVIF = frozenset(b"avif avis".split())


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case with their dot, that can be read here.

    The keys of `NEEDS` that are not among them are pictures that this installation
    cannot read.
    """
    found = set(ALWAYS)
    if features.check("avif"):
        found.add(".avif")
    if register_heif():
        found.update(suffix for suffix in NEEDS if NEEDS[suffix] == "pillow-heif")
    return frozenset(found)


@functools.cache
def register_heif() -> bool:
    """Teaches Pillow HEIC if pillow-heif is installed; returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def missing_reader(content: bytes) -> str:
    """Returns what to install to read a file, by its first bytes; '' if unknown.

    Names lie: phones send HEIC pictures that are called .jpg.
    """
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    kind = ".heic" if brand in HEIC else ".avif" if brand in AVIF else ""
    if not kind or kind in readable_suffixes():
        return ""
    return (
        f"it is a picture of the kind {kind[1:].upper()}: pip install '{NEEDS[kind]}'"
    )
