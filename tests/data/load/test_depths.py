"""Compares every mode and depth with values worked out by hand."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from invariance_propagation.data.load.decoding import PNG, decode
from invariance_propagation.data.load.depths import Depth, to_rgb
from tests.data.mutations import chunk, encoded

RAMP = np.linspace(0, 1, 64)[None].repeat(8, 0)  # [8, 64]
STEPS = np.rint(255 * RAMP).astype(int)


def gray(pixels: np.ndarray) -> np.ndarray:
    """Takes the one channel out of a grey picture [H, W, 3]."""
    assert pixels.shape[2] == 3 and (np.ptp(pixels, axis=2) == 0).all()
    return pixels[..., 0].astype(int)


# A color of each mode, and what it is to look at: over white where transparent.
MODES = {
    "1": (1, (255, 255, 255)),
    "L": (200, (200, 200, 200)),
    "P": (None, (30, 60, 90)),
    "RGB": ((30, 60, 90), (30, 60, 90)),
    "RGBA": ((30, 60, 90, 51), (210, 216, 222)),
    "RGBa": ((6, 12, 18, 51), (210, 216, 222)),
    "RGBX": ((30, 60, 90, 7), (30, 60, 90)),
    "LA": ((30, 51), (210, 210, 210)),
    "La": ((6, 51), (210, 210, 210)),
    "PA": (None, (210, 216, 222)),
    "CMYK": ((225, 195, 165, 0), (30, 60, 90)),
    "YCbCr": ((76, 85, 255), (254, 0, 0)),
    "HSV": ((0, 255, 200), (200, 0, 0)),
    # L* = 53.4, a* = b* = 0: the middle grey of sRGB; 128 is zero of a* and b*.
    "LAB": ((136, 128, 128), (127, 127, 127)),
    "I;16": (51400, (200, 200, 200)),
    "I;16L": (51400, (200, 200, 200)),
    "I;16B": (51400, (200, 200, 200)),
    "I;16N": (51400, (200, 200, 200)),
    "I": (None, None),
    "F": (None, None),
}


def test_all_modes_of_pillow_are_here() -> None:
    assert set(Image.MODES) == set(MODES)


def image_of(mode: str) -> Image.Image:
    color = MODES[mode][0]
    if mode in ("P", "PA"):
        image = Image.new("P", (3, 2), 5)
        image.putpalette([0] * 15 + [30, 60, 90])
        if mode == "P":
            return image
        image = image.convert("PA")
        image.putalpha(51)
        return image
    if mode.startswith("I;16"):
        order = {"L": "<", "B": ">"}.get(mode[-1], "=" if mode[-1] == "N" else "<")
        levels = np.full((2, 3), color, f"{order}u2")
        return Image.frombytes(mode, (3, 2), levels.tobytes())
    return Image.new(mode, (3, 2), color)


@pytest.mark.parametrize("mode", [mode for mode in MODES if MODES[mode][1]])
def test_every_mode_has_its_values(mode: str) -> None:
    bits = Depth(16, False) if mode.startswith("I;16") else Depth()
    pixels = to_rgb(image_of(mode), bits, stretch=False)
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - MODES[mode][1]).max() <= 1


# The modes that Pillow writes as they are.
WRITTEN = {
    "PNG": "1 L P RGB RGBA LA I;16",
    "TIFF": "1 L P RGB RGBA RGBX LA PA CMYK YCbCr LAB I;16 I;16L I;16B",
    "JPEG": "1 L RGB RGBX CMYK YCbCr",
    "WEBP": "RGB RGBA",
    "GIF": "1 L P RGB",
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, x) for kind in WRITTEN for x in WRITTEN[kind].split()]
)
def test_every_mode_comes_back_from_a_file(kind: str, mode: str) -> None:
    pixels = decode(encoded(image_of(mode), kind)).astype(int)
    # JPEG and WebP lose a little; in CMYK, four times.
    atol = 6 if kind in ("JPEG", "WEBP") else 1
    assert np.abs(pixels - MODES[mode][1]).max() <= atol


def test_inverted_cmyk_of_adobe_is_not_reversed() -> None:
    image = Image.fromarray(np.full((8, 8, 4), (225, 195, 165, 0), np.uint8), "CMYK")
    content = encoded(image, "JPEG")  # Pillow writes them inverted, as Adobe does
    assert b"Adobe" in content
    assert np.abs(decode(content)[0, 0].astype(int) - (30, 60, 90)).max() <= 3


# 16 bits.


def deep(kind: str) -> bytes:
    levels = np.rint(65535 * RAMP).astype(np.uint16)
    color = np.stack([levels] * 3, axis=-1)
    if kind == "PGM":
        return b"P5 64 8 65535\n" + levels.astype(">u2").tobytes()
    if kind == "PGM of 12 bits":
        return b"P5 64 8 4095\n" + (levels >> 4).astype(">u2").tobytes()
    if kind == "PPM of 12 bits":
        return b"P6 64 8 4095\n" + (color >> 4).astype(">u2").tobytes()
    if kind == "PPM":
        return b"P6 64 8 65535\n" + color.astype(">u2").tobytes()
    if kind == "JPEG2000":
        return encoded(Image.fromarray(levels), kind, irreversible=False)
    if kind.startswith("I;16"):
        order = ">u2" if kind.endswith("B") else "<u2"
        image = Image.frombytes(kind, (64, 8), levels.astype(order).tobytes())
        return encoded(image, "TIFF")
    if kind == "PNG":
        return encoded(Image.fromarray(levels), kind)
    return cv2.imencode(kind, color)[1].tobytes()


@pytest.mark.parametrize(
    "kind",
    ["PNG", "I;16", "I;16L", "I;16B", "PGM", "PPM", "JPEG2000", ".png", ".tif"]
    + ["PGM of 12 bits", "PPM of 12 bits"],
)
def test_sixteen_bits_are_a_ramp(kind: str) -> None:
    np.testing.assert_allclose(gray(decode(deep(kind))), STEPS, atol=1)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    levels = (np.arange(12).reshape(3, 4) * 5000).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(pixels, np.stack([levels >> 8] * 3, axis=-1))


def tiff(levels: np.ndarray, photometric: int, bits: int = 16) -> bytes:
    """Writes unsigned [H, W] as a little-endian TIFF."""
    height, width = levels.shape
    data = levels.astype("<u4" if bits == 32 else "<u2").tobytes()
    if bits == 12:  # two values in three bytes
        a, b = levels.reshape(-1, 2).astype(int).T
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1)
        data = data.astype(np.uint8).tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    entries |= {273: 8, 277: 1, 278: height, 279: len(data)}
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()]
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def test_sixteen_bits_whose_zero_is_white_are_not_reversed() -> None:
    levels = np.rint(65535 * (1 - RAMP)).astype(np.uint16)
    np.testing.assert_allclose(gray(decode(tiff(levels, 0))), STEPS, atol=1)
    np.testing.assert_allclose(gray(decode(tiff(levels, 1))), 255 - STEPS, atol=1)


def test_twelve_bits_by_the_header_are_a_ramp() -> None:
    levels = np.rint(4095 * RAMP).astype(np.uint16)
    np.testing.assert_allclose(gray(decode(tiff(levels, 1, bits=12))), STEPS, atol=1)


@pytest.mark.parametrize("scale", [255, 1023, 4095, 16383])
def test_a_depth_that_is_not_known_is_refused_or_stretched(scale: int) -> None:
    levels = np.rint(scale * RAMP).astype(np.uint16)
    content = encoded(Image.fromarray(levels), "PNG")
    with pytest.raises(ValueError, match=f"0 to {scale:,} in 16 .*stretch_depth=True"):
        decode(content)
    stretched = gray(decode(content, stretch_depth=True))
    np.testing.assert_allclose(stretched, STEPS, atol=1)
    color = np.stack([levels] * 3, axis=-1)
    for content in (
        cv2.imencode(".png", color)[1].tobytes(),
        cv2.imencode(".tif", color)[1].tobytes(),
        b"P6 64 8 65535\n" + color.astype(">u2").tobytes(),
    ):
        with pytest.raises(ValueError, match="above a quarter.*convert it to 8 bits"):
            decode(content)


def test_black_is_black_in_any_depth() -> None:
    content = encoded(Image.fromarray(np.zeros((4, 5), np.uint16)), "PNG")
    np.testing.assert_array_equal(decode(content), np.zeros((4, 5, 3)))


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.int32, "TIFF"), (np.float32, "TIFF"), (np.float32, "PPM")]
)
def test_floats_and_32_bits_are_refused_or_stretched(dtype: type, kind: str) -> None:
    levels = (70000 * RAMP - 3000).astype(dtype)
    content = encoded(Image.fromarray(levels), kind)
    with pytest.raises(ValueError, match="from -3,000 to 67,000 in Pillow's mode"):
        decode(content)
    stretched = gray(decode(content, stretch_depth=True))
    np.testing.assert_allclose(stretched, STEPS, atol=1)


def test_unsigned_32_bits_are_no_signed_ones() -> None:
    levels = np.rint((2.0**32 - 1) * RAMP).astype(np.uint32)
    content = tiff(levels, 1, bits=32)
    with pytest.raises(
        ValueError, match="from 0 to 4.294967e\\+09 in Pillow's mode I,"
    ):
        decode(content)
    np.testing.assert_allclose(gray(decode(content, stretch_depth=True)), STEPS, atol=1)


def test_signed_bytes_are_refused() -> None:
    # 0, 130 and 255, less 128, would come out as 128, 2 and 127.
    content = tags_of(encoded(Image.new("L", (4, 4)), "TIFF"), {339: 2})
    for stretch in (False, True):
        with pytest.raises(ValueError, match="its values are signed"):
            decode(content, stretch_depth=stretch)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_planes_are_refused(order: str) -> None:
    levels = np.rint(65535 * RAMP).astype(f"{order}u2")
    content = planes([levels] * 3, order)
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    with pytest.raises(ValueError, match="16 bits in separate planes"):
        decode(content)
    # In 8 bits they are what they were.
    content = planes([(levels >> 8).astype(np.uint8)] * 3, order)
    np.testing.assert_allclose(gray(decode(content)), STEPS, atol=1)


def planes(colors: list[np.ndarray], order: str) -> bytes:
    """Writes [H, W] as an uncompressed TIFF with a plane for each colour."""
    height, width = colors[0].shape
    size, bits = colors[0].nbytes, 8 * colors[0].itemsize
    data = b"".join(color.tobytes() for color in colors)
    # Values of more than four bytes lie behind the pixels.
    place = 8 + len(data)
    data += struct.pack(f"{order}3H2x", bits, bits, bits)
    data += struct.pack(f"{order}3I", *(8 + i * size for i in range(3)))
    data += struct.pack(f"{order}3I", size, size, size)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, place)]
    tags += [(259, 4, 1, 1), (262, 4, 1, 2), (273, 4, 3, place + 8), (277, 4, 1, 3)]
    tags += [(278, 4, 1, height), (279, 4, 3, place + 20), (284, 4, 1, 2)]
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags) + bytes(4)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8 + len(data)) + data + directory


def tags_of(content: bytes, changes: dict[int, int]) -> bytes:
    """Writes a TIFF anew with other tags, each a SHORT."""
    with Image.open(io.BytesIO(content)) as image:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in changes.items():
            tags[tag] = value
            tags.tagtype[tag] = 3
        image.load()
        return encoded(image, "TIFF", tiffinfo=tags)


def test_values_that_are_no_numbers_are_refused() -> None:
    levels = RAMP.astype(np.float32)
    levels[3, 4] = np.nan
    content = encoded(Image.fromarray(levels), "TIFF")
    for stretch in (False, True):
        with pytest.raises(ValueError, match="infinite or no numbers"):
            decode(content, stretch_depth=stretch)


# What is transparent.


def test_a_transparent_level_of_sixteen_bits_is_white() -> None:
    levels = np.array([[0, 1000, 40000, 65535]], np.uint16)
    content = encoded(Image.fromarray(levels), "PNG", transparency=1000)
    np.testing.assert_array_equal(gray(decode(content)), [[0, 255, 156, 255]])


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_level_of_few_bits_is_white(bits: int) -> None:
    # By hand, as Pillow writes none.
    level = {2: 1, 4: 5}[bits]
    packed = {2: bytes([0, 0b00011011]), 4: bytes([0, 0x05, 0xAF])}[bits]
    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", struct.pack(">H", level))]
    parts += [(b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    content = PNG + b"".join(chunk(*part) for part in parts)
    np.testing.assert_array_equal(gray(decode(content)), [[0, 255, 170, 255]])


def test_a_transparent_color_of_sixteen_bits_is_white() -> None:
    color = np.array([[(0, 256, 65535), (65535, 0, 0)]], np.uint16)
    content = cv2.imencode(".png", color[..., ::-1])[1].tobytes()
    first = content.index(b"IDAT") - 4
    hole = chunk(b"tRNS", struct.pack(">HHH", 0, 256, 65535))
    content = content[:first] + hole + content[first:]
    expected = [[(255, 255, 255), (255, 0, 0)]]
    np.testing.assert_array_equal(decode(content), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_color_is_white(mode: str) -> None:
    image = Image.new("RGB", (2, 1), (255, 255, 255))
    image.putpixel((1, 0), (0, 0, 0))
    image = image.convert(mode)
    color = image.getpixel((1, 0))
    content = encoded(image, "PNG", transparency=color)
    assert (decode(content) == 255).all()
