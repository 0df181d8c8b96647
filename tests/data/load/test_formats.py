"""Tests which kinds of files can be read, and what the others need."""

import io
import sys
import types
from collections.abc import Iterator

import pytest
from PIL import Image, features

from invariance_propagation.data.load import decoding, formats
from invariance_propagation.data.load.decoding import decode
from tests.data.mutations import encoded

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(300)
CACHES = (formats.readable_suffixes, formats.register_heif, decoding.known_formats)


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Clears what is cached about Pillow, before and after a test."""
    for cached in CACHES:
        cached.cache_clear()
    yield
    for cached in CACHES:
        cached.cache_clear()


def test_avif_is_read_where_pillow_can(monkeypatch) -> None:
    content = encoded(Image.new("RGB", (8, 8), "red"), "AVIF")
    assert ".avif" in formats.readable_suffixes()
    assert decode(content)[0, 0, 0] > 240
    formats.readable_suffixes.cache_clear()
    monkeypatch.setattr(features, "check", lambda name: False)
    assert ".avif" not in formats.readable_suffixes()
    assert "pip install 'pillow>=11.3'" in formats.missing_reader(content)


def test_what_heic_needs_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # cannot be imported
    readable = formats.readable_suffixes()
    assert not {".heic", ".heif", ".hif"} & readable
    assert formats.ALWAYS <= readable
    with pytest.raises(ValueError, match="kind HEIC: pip install 'pillow-heif'$"):
        decode(HEIC)


def test_heic_is_read_where_pillow_heif_is(monkeypatch) -> None:
    registered = []
    fake = types.ModuleType("pillow_heif")
    fake.register_heif_opener = lambda: registered.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    assert {".heic", ".heif", ".hif"} <= formats.readable_suffixes()
    with pytest.raises(ValueError, match="not a picture that Pillow knows"):
        decode(HEIC)  # the opener of the fake opens nothing
    assert registered == [True]


def test_each_suffix_that_is_read_is_one_of_pillows() -> None:
    Image.init()
    known = set(Image.registered_extensions())
    assert formats.ALWAYS <= known
    for suffix in formats.ALWAYS:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, Image.EXTENSION[suffix])
        assert decode(file.getvalue()).shape == (8, 8, 3)
