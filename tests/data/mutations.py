"""Damaged picture files, and a program that decodes them by the thousand.

    python -m tests.data.mutations COUNT [SEED]

decodes COUNT mutations of each kind and says how many became pictures, how many were
refused and what the slowest took. Whatever else happens is an error of the decoder.
"""

import collections
import io
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

# The kinds of pictures that Pillow writes, and in which modes.
KINDS = {
    "AVIF": ("RGB", "RGBA"),
    "BLP": ("P",),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "DDS": ("RGB", "RGBA"),
    "DIB": ("RGB",),
    "GIF": ("L", "P"),
    "ICNS": ("RGBA",),
    "ICO": ("RGBA",),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "MPO": ("RGB",),
    "MSP": ("1",),
    "PCX": ("1", "L", "P", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16", "F"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB", "RGBA"),
    "SPIDER": ("F",),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "F", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "XBM": ("1",),
}
EXIF = {"AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Returns the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def whole_files(kind: str) -> list[bytes]:
    """Returns a file of each mode, with a block of EXIF where the kind has one."""
    ramp = np.add.outer(np.arange(24), 3 * np.arange(32)) % 96
    rgb = np.stack([2 * ramp, 255 - 2 * ramp, ramp], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    options = {"exif": exif.tobytes()} if kind in EXIF else {}
    files = []
    for mode in KINDS[kind]:
        if mode == "I;16":
            image = Image.fromarray((ramp * 600).astype(np.uint16))
        elif mode == "LA":
            image = Image.fromarray(rgb).convert("L").convert("LA")
        else:
            image = Image.fromarray(rgb).convert(mode)
        files.append(encoded(image, kind, **options))
        if kind == "TIFF" and mode in ("L", "RGB"):
            files += [
                encoded(image, kind, compression=name, **options)
                for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
            ]
    return files


def mutations(kind: str, *, count: int, seed: int) -> Iterator[bytes]:
    """Yields damaged files of a kind: flipped, cut, overwritten, doubled, zeroed."""
    random, files = np.random.default_rng(seed), whole_files(kind)
    for number in range(count):
        content = bytearray(files[number % len(files)])
        for _ in range(random.integers(1, 4)):
            # Half of them in the header, where most of the decisions are.
            end = min(256, len(content)) if random.random() < 0.5 else len(content)
            place = int(random.integers(0, max(end, 1)))
            length = int(random.integers(1, 9))
            how = random.integers(0, 6)
            if how == 0:
                content[place : place + 1] = bytes([1 << random.integers(0, 8)])
            elif how == 1:
                content[place : place + length] = random.bytes(length)
            elif how == 2:
                content[place : place + length] = b"\xff" * length
            elif how == 3:
                content[place : place + length] = bytes(length)
            elif how == 4:
                content[place:place] = content[place : place + 8 * length]
            else:
                del content[place if random.random() < 0.3 else len(content) - length :]
        yield bytes(content)


def main(count: int, seed: int) -> None:
    from invariance_propagation.data.decoding import decode

    warnings.simplefilter("error")
    for kind in KINDS:
        found, slowest = collections.Counter(), 0.0
        for content in mutations(kind, count=count, seed=seed):
            start = time.perf_counter()
            try:
                pixels = decode(content)
                assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,)
                found["pictures"] += 1
            except ValueError:
                found["refused"] += 1
            slowest = max(slowest, time.perf_counter() - start)
        print(f"{kind}: {dict(found)}, the slowest {slowest:.2f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0)
