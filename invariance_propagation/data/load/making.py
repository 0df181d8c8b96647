"""Divides the making of a view between the host and the device."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from invariance_propagation.data.load.pictures import Pictures, crops
from invariance_propagation.data.load.stream import Make
from invariance_propagation.data.views.augment import augment, normalize
from invariance_propagation.data.views.host import views as host_views

# Makes a view on the device: (keys [b], uint8 [b, H, W, C]) -> float32 [b, size, size, C].
View = Callable[[jax.Array, jax.Array], jax.Array]
# (images, options of `augment`) -> the function for the host and that for the device.
Divide = Callable[[np.ndarray | Pictures, Mapping[str, Any]], tuple[Make, View]]


def crops_on_host(
    images: np.ndarray | Pictures, chances: Mapping[str, Any]
) -> tuple[Make, View]:
    """Reads, decodes and crops images on the host; the device does the rest."""
    del images
    return _crops(chances), partial(augment, **chances | {"crop_scale": ()})


def views_on_host(
    images: np.ndarray | Pictures, chances: Mapping[str, Any]
) -> tuple[Make, View]:
    """Makes whole views on the host; the device only normalises them."""
    statistics = {name: chances[name] for name in ("mean", "std")}
    options = {name: x for name, x in chances.items() if name not in statistics}
    make = partial(host_views, channels=images.shape[3], **options)
    if isinstance(images, Pictures):
        make = partial(_crop_first, _crops(chances), partial(make, crop_scale=()))
    return make, partial(_normalized, size=chances["size"], **statistics)


def _normalized(keys: jax.Array, images: jax.Array, **options: Any) -> jax.Array:
    del keys
    return normalize(images, **options)


def _crop_first(
    crop: Make, make: Make, images: Iterable[np.ndarray], uniform: np.ndarray
) -> Iterable[np.ndarray]:
    # Not an inner function: worker processes receive this by pickle.
    return make(crop(images, uniform), uniform)


def _crops(chances: Mapping[str, Any]) -> Make:
    options = {name: chances[name] for name in ("size", "crop_scale", "crop_ratio")}
    return partial(crops, **options)
