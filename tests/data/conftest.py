"""Provides real pictures, some of them small."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """uint8 [427, 640, 3]: a building, sky, saturated colours."""
    return load_sample_image("china.jpg")


@pytest.fixture(scope="session")
def patches(photo: np.ndarray) -> np.ndarray:
    """uint8 [24, 40, 52, 3]: 24 small pictures with colour and detail in them."""
    flower = load_sample_image("flower.jpg")
    patches = [
        (photo if i % 2 else flower)[200 + 6 * i :, 60 + 16 * i :][:40, :52]
        for i in range(24)
    ]
    assert min(patch.std() for patch in patches) > 20
    return np.stack(patches)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """uint8 [1797, 8, 8, 1]."""
    return (load_digits().images[..., None] * 255 / 16).astype(np.uint8)
