"""Turns figures and thumbnails into data URIs for the page."""

import base64
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, which people with any colour vision can tell apart, without
# yellow, which is too pale here.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "^", "s", "D")
GRAY = "#767676"
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "report",  # so that the same figure gives the same bytes
}
SIZE = (4.4, 2.9)  # inches; 400 pixels wide, letters still have 10 points
THUMBNAIL = 64


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """Makes an empty figure, size in inches."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def literal(text: str) -> str:
    """Escapes a text so that matplotlib does not read parts of it as mathematics."""
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """Renders a figure of lines and bars."""
    return _uri(_render(figure, format="svg", metadata={"Date": None}), "svg+xml")


def png(figure: Figure) -> str:
    """Renders a figure of thousands of points."""
    return _uri(_render(figure, format="png", dpi=200), "png")


def thumbnail(image: np.ndarray) -> str:
    """Makes a thumbnail of uint8 [H, W, C], C = 3 or 1; small images keep their size."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    file = io.BytesIO()
    if max(picture.size) <= THUMBNAIL:
        picture.save(file, "PNG", optimize=True)
        return _uri(file.getvalue(), "png")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(file, "JPEG", quality=85)
    return _uri(file.getvalue(), "jpeg")


def _render(figure: Figure, **options) -> bytes:
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, **options)
    return file.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
