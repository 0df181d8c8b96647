"""A classifier of frozen features: against SGD in NumPy, scikit-learn, and on 1 or 4 devices alike."""

from collections.abc import Iterator

import jax
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from invariance_propagation.devices import make_runner
from invariance_propagation.errors import TrainingError
from invariance_propagation.evaluation.classifier.fit import make_fit
from invariance_propagation.evaluation.classifier.head import Head, apply_head
from invariance_propagation.parallel import REPLICATED, SHARDED

CLASSES, SIZE = 3, 5
HEAD = Head(CLASSES)


def make_task(count: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap: there is one best classifier, and it is finite."""
    random = np.random.default_rng(0)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    x = np.eye(CLASSES, SIZE)[labels] + random.normal(scale=0.8, size=(count, SIZE))
    return x.astype(np.float32), labels


def train(
    batches: list[np.ndarray],
    features: np.ndarray,
    labels: np.ndarray,
    optimizer: optax.GradientTransformation,
    *,
    head: Head = HEAD,
    num_devices: int = 1,
    mode: str = "pmap",
    seed: int = 0,
    batch_size: int | None = None,
) -> dict:
    runner = make_runner(mode, num_devices)
    fit = make_fit(
        runner,
        lambda params, stats, scale, features, **rows: (scale * features, stats),
        view=lambda seed, features, indices, step: features[indices],
        head=head,
        num_features=features.shape[1],
        optimizers={"head": optimizer},
        spec=REPLICATED,
        batch_size=batch_size,
    )

    def given() -> Iterator[tuple]:
        placed = runner.put(features, REPLICATED)
        for indices in batches:
            yield runner.put(indices.astype(np.int32), SHARDED), placed

    state = fit(given(), frozen=np.float32(1), labels=labels, seed=seed)
    return state.params["head"]


def in_numpy(
    params: dict, batches: list, features: np.ndarray, labels: np.ndarray, rates: list
) -> dict:
    """SGD with momentum 0.9 on the mean cross-entropy of each batch."""
    weights = {k: np.float64(v) for k, v in params["output"].items()}
    traces = {k: np.zeros_like(v) for k, v in weights.items()}
    for indices, rate in zip(batches, rates, strict=True):
        x, y = np.float64(features[indices]), labels[indices]
        logits = x @ weights["kernel"] + weights["bias"]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        error = (shares - np.eye(CLASSES)[y]) / len(y)
        for name, grad in (("kernel", x.T @ error), ("bias", error.sum(axis=0))):
            traces[name] = 0.9 * traces[name] + grad
            weights[name] = weights[name] - rate * traces[name]
    return weights


@pytest.mark.parametrize(
    ("mode", "num_devices"), [("pmap", 1), ("pmap", 4), ("shard_map", 4)]
)
def test_is_sgd(mode: str, num_devices: int) -> None:
    features, labels = make_task()
    random = np.random.default_rng(1)
    batches = [random.permutation(48)[:16] for _ in range(12)]
    rates = [0.5] * 6 + [0.1] * 6
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.5, {6: 0.2}), 0.9)
    first = HEAD.init(jax.random.key(7), features[:1])["params"]
    found = train(
        batches,
        features,
        labels,
        optimizer,
        num_devices=num_devices,
        mode=mode,
        seed=7,
    )
    expected = in_numpy(first, batches, features, labels, rates)
    for name, x in expected.items():
        np.testing.assert_allclose(found["output"][name], x, rtol=2e-5, atol=2e-6)
        assert np.abs(x - first["output"][name]).max() > 0.05


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
@pytest.mark.parametrize(("num_devices", "count"), [(3, 20), (8, 20), (8, 5)])
def test_what_pads_a_batch_has_no_part_in_it(
    mode: str, num_devices: int, count: int
) -> None:
    features, labels = make_task()
    # Rows that pad are those of image 0: it would be seen.
    features[0] *= 50
    random = np.random.default_rng(1)
    batches = [1 + random.permutation(47)[:count] for _ in range(6)]
    first = HEAD.init(jax.random.key(0), features[:1])["params"]
    found = train(
        batches,
        features,
        labels,
        optax.sgd(0.5, 0.9),
        num_devices=num_devices,
        mode=mode,
        batch_size=count,
    )
    expected = in_numpy(first, batches, features, labels, [0.5] * 6)
    for name, x in expected.items():
        np.testing.assert_allclose(found["output"][name], x, rtol=2e-5, atol=2e-6)


def test_goes_where_scikit_learn_goes() -> None:
    features, labels = make_task()
    whole = [np.arange(48)] * 400
    found = train(whole, features, labels, optax.sgd(0.5, 0.9))
    best = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features, labels)
    shares = jax.nn.softmax(apply_head(HEAD, found, features))
    np.testing.assert_allclose(shares, best.predict_proba(features), atol=2e-3)


def test_a_scaled_head_learns_as_well() -> None:
    features, labels = make_task()
    head = Head(CLASSES, scaled=True)
    whole = [np.arange(48)] * 400
    found = train(whole, features, labels, optax.sgd(0.1, 0.9), head=head)
    logits = apply_head(head, found, features)
    best = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features, labels)
    expected = best.predict(features)
    assert np.mean(logits.argmax(axis=1) == expected) > 0.95
    assert not np.allclose(found["scale"], 1)


def test_another_seed_is_another_start() -> None:
    features, labels = make_task()
    one, again, other = (
        train([np.arange(8)], features, labels, optax.sgd(0.0), seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one["output"]["kernel"], again["output"]["kernel"])
    assert (one["output"]["kernel"] != other["output"]["kernel"]).all()


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    features, labels = make_task()
    features[3] = np.nan
    with pytest.raises(TrainingError, match="smaller learning_rate"):
        train([np.arange(8)] * 3, features, labels, optax.sgd(0.1))
