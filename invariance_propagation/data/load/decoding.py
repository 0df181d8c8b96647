"""Decodes picture files to pixels, at the decoder's speed."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from invariance_propagation.data.load.depths import depth_of, to_rgb
from invariance_propagation.data.load.formats import missing_reader, register_heif
from invariance_propagation.files.archives import open_file

# A quarter of a gigabyte of RGB, above which Pillow warns.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30  # of a file
JPEG = b"\xff\xd8"
PNG = b"\x89PNG\r\n\x1a\n"
PIXELS_PER_BYTE = 512  # at most: each 8 x 8 block of a JPEG takes at least a bit
EXIF_WITHIN = 4096  # bytes from the start of a JPEG; cameras write it first
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Pillow would start Ghostscript for EPS; FITS holds measurements.
NOT_READ = {"EPS", "FITS"}
# Pillow logs each damaged block of metadata, which helps nobody.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def read_file(path: Path) -> bytes:
    """Reads a picture file.

    Raises:
      OSError: it cannot be read, is not a regular file, or exceeds `MAX_BYTES`.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Read one byte more, because a file may grow meanwhile.
        content = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    if max(size, len(content)) > MAX_BYTES:
        raise OSError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    return content


def decode(content: bytes, *, stretch_depth: bool = False) -> np.ndarray:
    """Decodes a picture file, turns it as its EXIF says, and lays it over white.

    Checks the size in the header first, and ignores damaged metadata.

    Args:
      content: the bytes of the file.
      stretch_depth: see `depths.to_rgb`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: it is not a picture, or damaged, too large or of unknown depth; the
        message is one line.
    """
    try:
        pixels = _decode_jpeg(content) if content.startswith(JPEG) else None
        if pixels is None:
            pixels = _decode_any(content, stretch_depth)
        return pixels
    except Exception as error:  # decoders raise nearly everything
        raise ValueError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Describes an error in one line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels by its header: make it smaller"
    if isinstance(error, UnidentifiedImageError):
        # Pillow's message names an address in memory.
        return "it is not a picture that Pillow knows"
    return " ".join(str(error).split()) or type(error).__name__


def check_size(width: int, height: int) -> None:
    """Raises ValueError if a picture of this size, in pixels, must not be decoded."""
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it has {width:,} x {height:,} pixels by its header, more than "
            f"{MAX_PIXELS:,}: make it smaller"
        )


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """Decodes a JPEG fast; returns None for those that need Pillow."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    check_size(width, height)
    if width * height > PIXELS_PER_BYTE * len(content):
        raise ValueError(f"its {len(content):,} bytes cannot hold its pixels")
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:
        return None
    if b"Exif" not in content[:EXIF_WITHIN]:
        return pixels
    silence()
    try:
        with Image.open(io.BytesIO(content)) as image:
            return turn(pixels, _orientation(image))
    except Exception:  # the metadata is damaged, but the pixels are not
        return pixels


def _decode_any(content: bytes, stretch_depth: bool) -> np.ndarray:
    silence()
    try:
        return _decode_by_pillow(content, stretch_depth)
    except Exception:
        bare = pixel_chunks(content) if content.startswith(PNG) else content
        if bare == content:
            raise
        return _decode_by_pillow(bare, stretch_depth)


def _decode_by_pillow(content: bytes, stretch_depth: bool) -> np.ndarray:
    try:
        opened = Image.open(io.BytesIO(content), formats=known_formats())
    except UnidentifiedImageError as error:
        missing = missing_reader(content)
        if missing:
            raise ValueError(missing) from error
        raise
    with opened as image:
        check_size(*image.size)
        depth = depth_of(image)
        image.load()
        check_size(*image.size)  # some kinds of files have another size in the header
        pixels = to_rgb(image, depth, stretch=stretch_depth)
        return turn(pixels, _orientation(image))


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the kinds of files that are read."""
    register_heif()
    Image.init()
    # Pillow refuses pictures above twice this number. This includes pictures inside an
    # icon, which Pillow opens by itself, and whose size differs from the icon's.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    with contextlib.suppress(AttributeError, OSError):
        # Otherwise libtiff writes errors to standard error without naming the file.
        library = ctypes.CDLL(Image.core.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    return tuple(name for name in Image.ID if name not in NOT_READ)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; 1, upright, if the metadata is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, C] upright: [H, W, C] or [W, H, C]. EXIF numbers the orientations."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def pixel_chunks(content: bytes) -> bytes:
    """Returns a PNG without the chunks that do not affect its pixels."""
    chunks, place = [PNG], len(PNG)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] in PIXEL_CHUNKS:
            chunks.append(content[place : place + length + 12])
        place += length + 12
    return b"".join(chunks)


def silence() -> None:
    """Silences Pillow's warnings, which do not name the picture."""
    # Check each time, because pytest and others put filters in front of ours.
    # warnings.catch_warnings would not be safe in threads.
    ours = r"PIL\."
    first = warnings.filters[0] if warnings.filters else None
    if first is None or getattr(first[3], "pattern", None) != ours:
        warnings.filterwarnings("ignore", module=ours)
