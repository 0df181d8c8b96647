"""How text and numbers are shown to people."""

import pytest

from invariance_propagation.errors import ENCODABLE, in_bytes, percent


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (2e6, "2.0 MB"),
        (656e9, "656.0 GB"),
    ],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert in_bytes(size) == text


def test_shares_for_people() -> None:
    assert percent(0.5) == "50.00 %" and percent(None) == "n/a"


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("w\udcff", "utf-8", "w\\xff"),  # a name's byte that is no UTF-8
        ("é\udcff\n", "ascii", "\\xe9\\xff\n"),
        ("é\n", "utf-8", "é\n"),
        ("\ud800", "utf-8", "\\ud800"),
    ],
)
def test_what_cannot_be_encoded_is_escaped(
    text: str, encoding: str, shown: str
) -> None:
    assert text.encode(encoding, ENCODABLE).decode(encoding) == shown
