"""18,200 capital letters in 700 fonts, 28x28 grey.

    python benchmarks/letters.py runs/letters_data
    python main.py --config=configs/letters.py --workdir=runs/letters

Other families of fonts are held out.

Time: not measured.
Result: not measured.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist, methods

VALUES = {"invariance_propagation": {"method": {"propagation_weight": 2.0}}}


def get_config(method: str = "") -> ConfigDict:
    """As Fashion-MNIST; for a CPU add --config.data.num_train=10000."""
    config = fashion_mnist.get_config(method)
    config.data.name = "letters"
    config.augment.flip = 0.0  # a mirrored letter is no letter
    config.augment.update(mean=(0.177,), std=(0.350,))
    methods.adapt(config, VALUES)
    return config
