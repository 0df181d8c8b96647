"""Lists the kinds of picture files that can be read here, and what others need."""

import functools
from collections.abc import Mapping

from PIL import features

# Pictures that every installation of Pillow reads.
ALWAYS = frozenset(".bmp .gif .jpeg .jpg .jp2 .png .ppm .tif .tiff .webp".split())
# The package to install for kinds that not every installation of Pillow reads.
NEEDS: Mapping[str, str] = {
    ".avif": "pillow>=11.3",
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".hif": "pillow-heif",
}
# Bytes 8 to 12 of such files, their brand.
HEIC = frozenset(b"heic heix hevc hevx heim heis mif1 msf1".split())
AVIF = frozenset(b"avif avis".split())


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case with their dot, that can be read here.

    Keys of `NEEDS` that are not among them are pictures that this installation cannot
    read.
    """
    suffixes = set(ALWAYS)
    if features.check("avif"):
        suffixes.add(".avif")
    if register_heif():
        suffixes.update(suffix for suffix in NEEDS if NEEDS[suffix] == "pillow-heif")
    return frozenset(suffixes)


@functools.cache
def register_heif() -> bool:
    """Registers HEIC with Pillow if pillow-heif is installed; returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def missing_reader(content: bytes) -> str:
    """Says what to install to read a file, by its first bytes; '' if unknown.

    Its name may be wrong: phones send HEIC pictures named .jpg.
    """
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    kind = ".heic" if brand in HEIC else ".avif" if brand in AVIF else ""
    if not kind or kind in readable_suffixes():
        return ""
    return (
        f"it is a picture of the kind {kind[1:].upper()}: pip install '{NEEDS[kind]}'"
    )
