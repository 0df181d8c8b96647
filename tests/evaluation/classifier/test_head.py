"""The head of a classifier, and how often it is right: against loops and PyTorch."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from invariance_propagation.errors import TrainingError
from invariance_propagation.evaluation.classifier.head import (
    Head,
    accuracies,
    apply_head,
    class_accuracies,
    mean_cross_entropy,
)


def test_accuracies_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 12)).astype(np.float32)
    labels = random.integers(12, size=200)
    found = dict(accuracies(logits, labels))
    for name, k in (("top1", 1), ("top5", 5)):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(12))
        assert found[name] == pytest.approx(expected)
    assert 0.02 < found["top1"] < 0.2 and 0.3 < found["top5"] < 0.55


def test_the_mean_over_classes_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels = random.choice([0, 2, 3], p=[0.8, 0.15, 0.05], size=300)
    logits = random.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels]
    logits[:, 0] += 1
    found = dict(class_accuracies(logits, labels))
    assert list(found) == ["top1", "per class"]
    with warnings.catch_warnings():  # of class 1, which is only ever guessed
        warnings.simplefilter("ignore")
        expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert found["per class"] == pytest.approx(expected)
    assert found["top1"] > found["per class"] + 0.1


def test_five_of_few_classes_say_nothing() -> None:
    assert [name for name, _ in accuracies(np.eye(9), np.arange(9))] == ["top1"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_in_no_order_are_no_score(value: float) -> None:
    # All comparisons with NaN are false, which would make it 100 %.
    logits = np.eye(10)
    logits[3, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        dict(accuracies(logits, np.arange(10)))


def test_of_equal_logits_the_lower_class_counts_as_the_likelier() -> None:
    logits = np.zeros((12, 12))
    labels = np.arange(12)
    assert dict(accuracies(logits, labels)) == pytest.approx(
        {"top1": 1 / 12, "top5": 5 / 12}
    )
    assert np.mean(logits.argmax(axis=1) == labels) == pytest.approx(1 / 12)


def test_a_scaled_head_is_the_batch_norm_of_the_released_code() -> None:
    """In evaluation mode from the first step on: mean 0, variance 1, learnt affine."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    x = random.normal(size=(5, 6)).astype(np.float32)
    head = Head(3, scaled=True)
    params = head.init(jax.random.key(0), jnp.asarray(x))["params"]
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype("f"), params)
    norm, layer = torch.nn.BatchNorm1d(6).eval(), torch.nn.Linear(6, 3)
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = map(
            torch.tensor, (params["scale"], params["shift"])
        )
        layer.weight[:] = torch.tensor(params["output"]["kernel"].T)
        layer.bias[:] = torch.tensor(params["output"]["bias"])
        expected = layer(norm(torch.tensor(x))).numpy()
    np.testing.assert_allclose(apply_head(head, params, x), expected, atol=1e-5)


def test_first_weights_are_as_said() -> None:
    x = jnp.zeros((1, 400))
    params = Head(50, std=0.3).init(jax.random.key(0), x)["params"]
    assert set(params) == {"output"}
    assert np.std(params["output"]["kernel"]) == pytest.approx(0.3, rel=0.02)
    assert not params["output"]["bias"].any()


def test_cross_entropy_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(2)
    logits = random.normal(scale=9, size=(7, 4)).astype(np.float32)
    labels = random.integers(4, size=7)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels)
    )
    found = mean_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
