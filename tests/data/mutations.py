"""Damages picture files, and decodes thousands of them in a program.

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
# Those that Pillow reads alone; of others it knows the first bytes, and no pixels.
READ_ONLY = ("CUR", "DCX", "FLI", "FTEX", "GBR", "IM", "IMT", "IPTC", "MCIDAS")
READ_ONLY += ("PCD", "PIXAR", "PSD", "SUN", "XPM", "XVTHUMB")
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
    files = [read_only_file(kind)] if kind in READ_ONLY else []
    for mode in KINDS.get(kind, ()):
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


def read_only_file(kind: str) -> bytes:
    """Returns a small file of a kind that Pillow does not write."""
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
    rgb, big = bytes(range(192)), struct.Struct(">I").pack
    if kind == "CUR":
        icon = encoded(image.convert("RGBA"), "ICO", bitmap_format="bmp")
        return icon[:2] + b"\2" + icon[3:]
    if kind == "DCX":
        return struct.pack("<3I", 0x3ADE68B1, 12, 0) + encoded(image, "PCX")
    if kind == "FLI":
        head = struct.pack("<IHHHHHHI", 0, 0xAF11, 1, 8, 8, 8, 3, 5).ljust(128, b"\0")
        rows = struct.pack("<IH", 6 + 64, 16) + image.tobytes()  # a chunk "copy"
        return head + struct.pack("<IHH8x", 16 + len(rows), 0xF1FA, 1) + rows
    if kind == "FTEX":
        head = struct.pack("<4sI4i", b"FTEX", 1, 8, 8, 1, 1)
        return head + struct.pack("<3i", 1, 32, 192) + rgb
    if kind == "GBR":
        head = (32, 2, 8, 8, 1)
        return b"".join(map(big, head)) + b"GIMP" + big(10) + b"a\0\0\0" + bytes(64)
    if kind == "IM":
        head = b"Image type: Greyscale image\r\nImage size (x*y): 8*8\r\n".ljust(
            511, b"\0"
        )
        return head + b"\x1a" + image.tobytes()
    if kind == "IMT":
        return b"*size 8*8\nwidth 8\nheight 8\npixel n8\n\x0c" + image.tobytes()
    if kind == "IPTC":
        fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x08"), (3, 30, b"\0\x08")]
        fields += [(3, 120, b"\1"), (8, 10, encoded(image, "PPM"))]
        return b"".join(
            struct.pack(">BBBH", 0x1C, *where, len(x)) + x for *where, x in fields
        )
    if kind == "MCIDAS":
        words = [0, 4, *6 * [0], 8, 8, 1, 0, 0, 1, *19 * [0], 256]
        return b"".join(map(big, words)).ljust(256, b"\0") + image.tobytes()
    if kind == "PCD":
        return (bytes(2048) + b"PCD_").ljust(2048 * 96, b"\0") + bytes(
            768 * 512 * 3 // 2
        )
    if kind == "PIXAR":
        head = b"\200\350\0\0".ljust(416, b"\0") + struct.pack("<HH4xHH", 8, 8, 14, 2)
        return head.ljust(1024, b"\0") + rgb
    if kind == "PSD":
        head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 8, 8, 8, 3)
        return head + 3 * big(0) + b"\0\0" + rgb
    if kind == "SUN":
        return b"".join(map(big, (0x59A66A95, 8, 8, 24, 192, 1, 0, 0))) + rgb
    if kind == "XPM":
        rows = 8 * b'"abababab",\n'
        colors = b'"a c #ff0000",\n"b c #00ff00",\n'
        return b'/* XPM */\nstatic char *x[] = {\n"8 8 2 1",\n' + colors + rows + b"};"
    return b"P7 332\n#END_OF_COMMENTS\n8 8 255\n" + image.tobytes()  # XVTHUMB


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
    from invariance_propagation.data.load.decoding import decode

    warnings.simplefilter("error")
    for kind in (*KINDS, *READ_ONLY):
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
