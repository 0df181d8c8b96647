"""Tests that files become the pixels that Pillow shows, or one line says why not."""

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.load import decoding
from invariance_propagation.data.load.decoding import MAX_PIXELS, decode, read_file
from invariance_propagation.errors import TrainingError
from tests.data.mutations import (
    KINDS,
    READ_ONLY,
    chunk,
    encoded,
    mutations,
    whole_files,
)
from tests.data.pictures import pictures_of


@pytest.fixture(scope="module")
def picture(photo: np.ndarray) -> Image.Image:
    return Image.fromarray(photo[100:157, 200:283])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding_is_pillows(picture: Image.Image, kind: str, mode: str) -> None:
    content = encoded(picture.convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    # Two builds of the same JPEG library round differently.
    np.testing.assert_allclose(decode(content).astype(int), expected, atol=2)


def test_a_cmyk_jpeg_is_pillows(picture: Image.Image) -> None:
    content = encoded(picture.convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_allclose(decode(content).astype(int), expected, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_back(picture: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(picture, "JPEG", exif=exif, quality=95))
    upright = np.asarray(picture)
    # As the EXIF standard numbers them.
    expected = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, -1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright),
    }[orientation]
    assert turned.shape == expected.shape
    assert np.abs(turned.astype(int) - expected).mean() < 4


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 255, 255))
    for other in (image, image.quantize()):
        pixels = decode(encoded(other, "PNG"))
        assert pixels.shape == (3, 4, 3)
        np.testing.assert_array_equal(pixels[2, 1], (0, 0, 255))
        assert (np.delete(pixels.reshape(-1, 3), 9, axis=0) == 255).all()


# Metadata.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"II*\0", b"MM\0*", b"garbage!", b"II*\0\xff\xff"])
def test_damaged_exif_costs_nothing(
    picture: Image.Image, kind: str, block: bytes
) -> None:
    content = encoded(picture, kind, exif=b"Exif\0\0" + block)
    plain = decode(encoded(picture, kind))
    np.testing.assert_array_equal(decode(content), plain)


@pytest.mark.parametrize(
    "damage",
    [
        chunk(b"gAMA", b"1"),
        chunk(b"pHYs", b"1"),
        chunk(b"iCCP", b"a\0\7x"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))),
        chunk(b"tEXt", b"a\0b")[:-4] + b"0000",  # a wrong checksum
        chunk(b"eXIf", b"II*\0"),
    ],
)
def test_damaged_chunks_of_a_png_are_passed_over(
    picture: Image.Image, damage: bytes
) -> None:
    content = encoded(picture, "PNG")
    first = content.index(b"IDAT") - 4
    content = content[:first] + damage + content[first:]
    np.testing.assert_array_equal(decode(content), np.asarray(picture))


@pytest.mark.parametrize("action", ["error", "always"])
def test_nothing_is_warned_of(picture: Image.Image, action: str, capfd) -> None:
    cut = bytearray(encoded(picture, "TIFF"))
    count = struct.unpack_from("<I", cut, 4)[0]  # of tags, more than there are
    cut[count : count + 2] = b"\xff\x00"
    transparent = encoded(picture.quantize(), "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        with pytest.raises(UserWarning) if action == "error" else nullcontext():
            Image.open(io.BytesIO(cut))
        caught.clear()
        for content in (bytes(cut), transparent):
            with suppress(ValueError):
                decode(content)
    assert not caught
    for content in mutations("TIFF", count=30, seed=7):
        with suppress(ValueError):
            decode(content)
    assert capfd.readouterr() == ("", "")


# Sizes.


def jpeg_of(width: int, height: int) -> bytes:
    """Writes a JPEG of 8 x 8 pixels whose header claims another size."""
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_of(width: int, height: int) -> bytes:
    content = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_of(width: int, height: int) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return decoding.PNG + b"".join(chunk(*part) for part in chunks)


def webp_of(width: int, height: int) -> bytes:
    first, other = Image.new("RGBA", (8, 8), (9, 9, 9, 9)), Image.new("RGBA", (8, 8))
    frames = {"save_all": True, "append_images": [other]}
    content = bytearray(encoded(first, "WEBP", **frames))
    place = content.index(b"VP8X") + 12
    sizes = [(side - 1).to_bytes(3, "little") for side in (width, height)]
    content[place : place + 6] = b"".join(sizes)
    return bytes(content)


def avif_of(width: int, height: int) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (64, 64)), "AVIF"))
    place = content.index(b"ispe") + 8
    content[place : place + 8] = struct.pack(">II", width, height)
    return bytes(content)


def j2k_of(width: int, height: int) -> bytes:
    image = Image.new("L", (64, 64))
    content = bytearray(encoded(image, "JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x51")
    for start in (place + 6, place + 22):  # of the picture, and of its only tile
        content[start : start + 8] = struct.pack(">II", width, height)
    return bytes(content)


def tiff_of(width: int, height: int) -> bytes:
    content = encoded(Image.new("L", (8, 8)), "TIFF", compression="tiff_lzw")
    for tag, size in ((256, width), (257, height)):
        field = struct.pack("<HHIH", tag, 3, 1, 8)
        assert field in content
        content = content.replace(field, struct.pack("<HHIH", tag, 3, 1, size))
    return content


def in_ico(content: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(content), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + content


def in_icns(content: bytes) -> bytes:
    block = b"ic10" + struct.pack(">I", len(content) + 8) + content
    return b"icns" + struct.pack(">I", len(block) + 8) + block


LARGE = {
    "jpeg": jpeg_of(12000, 12000),
    "jpeg without pixels": jpeg_of(9000, 9000),
    "gif": gif_of(40000, 40000),
    "bmp": bmp_of(12000, 12000),
    "png": png_of(15000, 12000),
    "ppm": b"P6 12000 12000 255\n",
    "webp": webp_of(12000, 12000),
    "avif": avif_of(12000, 12000),
    "jpeg 2000": j2k_of(12000, 12000),
    "tiff": tiff_of(12000, 12000),
    "qoi": b"qoif" + struct.pack(">IIBB", 12000, 12000, 3, 0),
    "psd": struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 12000, 12000, 8, 3) + bytes(14),
    "png in ico": in_ico(png_of(12000, 12000)),
    "jpeg 2000 in icns": in_icns(j2k_of(12000, 12000)),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_size_that_is_too_large_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="pixels") as raised:
        decode(LARGE[kind])
    assert ("89,478,485" in str(raised.value)) == (kind != "jpeg without pixels")


MEASURE = """
import resource, sys, time
from tests.data.load.test_decoding import LARGE, decode
decode(bytes.fromhex(sys.argv[1]))  # what Pillow imports at first
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for content in LARGE.values():
    try:
        decode(content)
    except ValueError:
        continue
    raise AssertionError
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.process_time() - start, after - before)
"""


def test_refusing_sizes_costs_neither_time_nor_memory() -> None:
    png = encoded(Image.new("RGB", (8, 8)), "PNG")
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, png.hex()],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, kilobytes = map(float, result.stdout.split())
    # Decoded, each takes 90 MB or more.
    assert seconds < 0.5 and kilobytes < 30_000


def test_as_many_pixels_as_are_allowed_are_read() -> None:
    decoding.check_size(MAX_PIXELS, 1)
    with pytest.raises(ValueError, match=r"by its header, more than 89,478,485"):
        decoding.check_size(MAX_PIXELS + 1, 1)
    with pytest.raises(ValueError, match="no pixels"):
        decoding.check_size(0, 4)


# Files.


def test_pipes_sockets_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as other:
        place = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket must be short
        other.bind("socket.png")
        os.chdir(place)
        ids = ["pipe.png", "folder.png", "device.png", "socket.png"]
        pictures = pictures_of(tmp_path, ids, 8)
        for index, name in enumerate(ids):
            with pytest.raises(TrainingError, match=f"^{name} .*not a regular file"):
                pictures.read(index)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    with pytest.raises(OSError, match="1,073,741,825 bytes, more than"):
        read_file(tmp_path / "a.png")


# Whatever a decoder raises.


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MemoryError(), "there is not enough memory for it"),
        (struct.error("two\n lines"), "two lines"),
        (SyntaxError("broken"), "broken"),
        (zlib.error("broken"), "broken"),
        (RecursionError(), "RecursionError"),
        (OverflowError("broken"), "broken"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_any_error_is_one_line_and_names_the_picture(
    picture: Image.Image, tmp_path: Path, monkeypatch, raised, expected: str
) -> None:
    picture.save(tmp_path / "a.png")

    def fail(*args, **kwargs) -> None:
        raise raised

    monkeypatch.setattr(decoding.Image, "open", fail)
    with pytest.raises(TrainingError) as found:
        pictures_of(tmp_path, ["a.png"], 8).read(0)
    assert str(found.value).startswith(f"a.png cannot be used ({expected}): ")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_bad_picture(
    picture: Image.Image, monkeypatch, raised: type
) -> None:
    def fail(*args, **kwargs) -> None:
        raise raised

    monkeypatch.setattr(decoding.Image, "open", fail)
    with pytest.raises(raised):
        decode(encoded(picture, "PNG"))


@pytest.mark.parametrize("kind", READ_ONLY)
def test_what_pillow_reads_alone_is_read(kind: str) -> None:
    (content,) = whole_files(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of IM, to be given up
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    if kind == "CUR":  # which is transparent somewhere
        assert decode(content).shape == expected.shape
    else:
        np.testing.assert_array_equal(decode(content), expected)


@pytest.mark.parametrize("kind", [*KINDS, *READ_ONLY])
def test_mutated_files_are_pictures_or_a_line(kind: str, tmp_path: Path) -> None:
    # By the thousand: python -m tests.data.mutations 1000
    for content in mutations(kind, count=40, seed=1):
        (tmp_path / "a").write_bytes(content)
        try:
            pixels = pictures_of(tmp_path, ["a"], 8).read(0)
        except TrainingError as error:
            assert str(error).startswith("a cannot be used (")
            assert "\n" not in str(error) and "object at 0x" not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3
            assert pixels.shape[2] == 3 and pixels.size


def test_ghostscript_is_not_started() -> None:
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(ValueError, match="not a picture that Pillow knows"):
        decode(content)


def test_what_is_no_picture_is_called_so() -> None:
    with pytest.raises(ValueError, match="^it is not a picture that Pillow knows$"):
        decode(b"a text")
