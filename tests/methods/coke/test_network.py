"""The network of CoKe layer by layer, and a run that learns."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits
from invariance_propagation.methods.coke.network import CokeEncoder, make_network
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from tests import tiny
from tests.methods.coke.made import unit

HIDDEN, DIM = 6, 4


def make() -> tuple[CokeEncoder, dict, np.ndarray]:
    network = CokeEncoder(tiny.TinyBackbone(None), HIDDEN, DIM)
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 1)).astype(np.float32)

    def both(network: CokeEncoder, images: jax.Array) -> None:
        network.encode([images], train=False)

    return network, network.init(jax.random.key(0), images, method=both), images


def layer(params: dict, x: np.ndarray) -> np.ndarray:
    """Linear and BatchNorm over the batch: (x - mean) / sqrt(var + 1e-5)."""
    x = x @ np.asarray(params["Dense_0"]["kernel"], float)
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def test_heads_are_the_released_ones() -> None:
    network, variables, images = make()
    params = variables["params"]
    assert set(params["project1"]["Dense_0"]) == {"kernel"}  # BatchNorm has the bias
    assert set(params["predict2"]) == {"kernel", "bias"}
    encoded, _ = network.apply(
        variables,
        [images, images[::-1]],
        train=True,
        mutable="batch_stats",
        method=network.encode,
    )
    features, _ = network.apply(variables, images, train=True, mutable="batch_stats")
    x = np.asarray(features.features, float)
    x = np.maximum(layer(params["project1"], x), 0)
    x = np.maximum(layer(params["project2"], x), 0)
    x = layer(params["project3"], x)  # its end has BatchNorm, and no ReLU
    np.testing.assert_allclose(encoded.projections[0], unit(x), atol=2e-4)
    np.testing.assert_allclose(features.embedding, unit(x), atol=2e-4)
    # The prediction is made of the projection before it has unit length.
    x = np.maximum(layer(params["predict1"], x), 0)
    x = x @ np.asarray(params["predict2"]["kernel"])
    np.testing.assert_allclose(encoded.predictions[0], unit(x), atol=2e-3)
    # Each view by itself: the second is the first one backwards.
    np.testing.assert_allclose(
        encoded.projections[1], encoded.projections[0][::-1], atol=1e-5
    )


def test_weights_start_as_pytorchs() -> None:
    _, variables, _ = make()
    kernel = np.asarray(variables["params"]["project2"]["Dense_0"]["kernel"])
    bound = 1 / np.sqrt(HIDDEN)
    assert 0.8 * bound < np.abs(kernel).max() <= bound
    assert not variables["params"]["predict2"]["bias"].any()


def test_the_runs_backbone_and_widths_are_used() -> None:
    encoder = tiny.Encoder(tiny.TinyBackbone("batch"), "linear", hidden=9, dim=5)
    network = make_network(tiny.problem_of(encoder, "batch"))
    assert (network.hidden, network.dim, network.axis_name) == (9, 5, "batch")
    assert network.norm_group == 0 and network.dtype == jnp.float32
    assert isinstance(network.backbone, tiny.TinyBackbone)


def test_it_learns_digits(tmp_path: Path, optimized: None) -> None:
    """kNN rises far above the untrained network's, loss and label changes fall."""
    config = digits.get_config("coke")
    config.num_devices = 2
    config.augmentation = "host"  # nothing to compile
    config.data.num_train = 640
    config.encoder.update(depth=6, width=8, hidden=64, dim=32)
    config.method.update(num_clusters=(20, 30), dual_rate=1.0)
    config.train.update(epochs=30, evaluate_every=0)
    summary = train_and_evaluate(config, str(tmp_path))
    # Measured: 0.79 after 0.61.
    assert summary["knn_trained"] >= summary["knn_untrained"] + 0.10
    rows = {row["epoch"]: row for row in read_rows(tmp_path) if "label_changes" in row}
    # In epoch 0 the rate is 0, and in 1 the loss first sees centres of all images.
    # Measured: a loss of 2.56 after 4.44, and 0.53 changes after 0.90.
    assert rows[29]["loss"] < 0.7 * rows[1]["loss"]
    assert rows[29]["label_changes"] < 0.7 < rows[1]["label_changes"]
    assert rows[0]["label_changes"] == 0  # the first label is no change
    assert rows[29]["smallest_cluster"] > 0
    # Measured: 0.57.
    assert summary["cluster_purity"] > 0.4
