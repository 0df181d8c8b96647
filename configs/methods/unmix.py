"""Options of Un-Mix, which wraps another method: unmix+METHOD.

The values are those of the authors' code for ImageNet and CIFAR-10. configs/default.py
explains the tags.
"""

from ml_collections import ConfigDict


def configure(config: ConfigDict) -> None:
    """Sets the options of the section `method`."""
    # How often the two images are blended; else a region of one is pasted [code].
    config.method.global_probability = 0.5
    # Of Beta(alpha, alpha), which the share of an image is drawn from; 1: uniform [code].
    config.method.alpha = 1.0
    # The section of the method that is wrapped; its options are in its own file here.
    config.method.inner = ConfigDict()
