"""The optimiser against PyTorch's SGD in NumPy, and its schedules step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.optimizer import make_optimizer

OPTIONS = dict(
    learning_rate=0.3,
    momentum=0.9,
    weight_decay=0.01,
    schedule="cosine",
    milestones=(3, 5),
    decay=0.1,
    warmup_epochs=0,
    epochs=8,
    steps_per_epoch=4,
)
SHAPES = {"kernel": (3, 2), "bias": (2,), "scale": (4,)}


def make(**changes: Any) -> tuple[optax.Schedule, optax.GradientTransformation]:
    return make_optimizer(**OPTIONS | changes)


def rates(steps: Sequence[int], **changes: Any) -> np.ndarray:
    schedule, _ = make(**changes)
    return np.array([schedule(step) for step in steps])


def pytorch_sgd(
    params: np.ndarray,
    grads: Sequence[np.ndarray],
    rate: Callable[[int], float],
    *,
    momentum: float,
    weight_decay: float,
) -> list[np.ndarray]:
    """Parameters after each step, by the formulas in torch.optim.SGD's documentation.

    Without dampening and Nesterov; the buffer starts as the first gradient.
    """
    buffer, result = None, []
    for step, grad in enumerate(grads):
        grad = grad + weight_decay * params
        buffer = grad if buffer is None else momentum * buffer + grad
        params = params - rate(step) * buffer
        result.append(params)
    return result


def random_tree(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as it is used"),
        pytest.param(dict(momentum=0.0), id="no momentum"),
        pytest.param(dict(weight_decay=0.0), id="no decay"),
        # Two steps an epoch: warm-up, both drops and what follows, in five steps.
        pytest.param(
            dict(schedule="steps", milestones=(1, 2), steps_per_epoch=2), id="steps"
        ),
        pytest.param(dict(warmup_epochs=1, steps_per_epoch=3), id="warm-up"),
    ],
)
def test_five_steps_are_pytorchs(changes: dict[str, Any]) -> None:
    schedule, optimizer = make(**changes)
    options = OPTIONS | changes
    params, grads = random_tree(0), [random_tree(1 + step) for step in range(5)]
    expected = {
        name: pytorch_sgd(
            params[name].astype(np.float64),
            [grad[name] for grad in grads],
            lambda step: float(schedule(step)),
            momentum=options["momentum"],
            weight_decay=options["weight_decay"],
        )
        for name in SHAPES  # all of them decay: biases and BatchNorm's scales too
    }

    @jax.jit
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for step, grad in enumerate(grads):
        params, state = update(params, state, grad)
        for name in SHAPES:
            np.testing.assert_allclose(
                params[name], expected[name][step], rtol=1e-5, atol=1e-6
            )


def test_weight_decay_joins_the_momentum() -> None:
    # Without a gradient: PyTorch's buffer remembers the decay of the first step, a
    # decoupled one (AdamW's) would not.
    _, optimizer = make(
        learning_rate=1.0,
        momentum=0.5,
        weight_decay=0.1,
        schedule="steps",
        milestones=(),
    )
    params, state = jnp.ones(()), optimizer.init(jnp.ones(()))
    values = []
    for _ in range(2):
        updates, state = optimizer.update(jnp.zeros(()), state, params)
        params = optax.apply_updates(params, updates)
        values.append(float(params))
    # 1 - 0.1 = 0.9; then 0.9 - (0.5 * 0.1 + 0.1 * 0.9) = 0.76.
    np.testing.assert_allclose(values, [0.9, 0.76], rtol=1e-6)


def released_lars(
    params: np.ndarray,
    grads: Sequence[np.ndarray],
    rate: Callable[[int], float],
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> list[np.ndarray]:
    """Parameters after each step, as idstcv/CoKe has it at 77228ae, coke/optimizer.py.

    Lines 28 to 37: two dimensions or more decay, and are scaled unless a norm is 0.
    Lines 40 to 44: the learning rate comes after the momentum.
    """
    velocity, result = np.zeros_like(params), []
    for step, grad in enumerate(grads):
        change = grad
        if params.ndim > 1:
            change = grad + weight_decay * params
            norms = np.sqrt((params**2).sum()), np.sqrt((change**2).sum())
            if norms[0] > 0 and norms[1] > 0:
                change = change * (trust * norms[0] / norms[1])
        velocity = momentum * velocity + change
        params = params - rate(step) * velocity
        result.append(params)
    return result


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("start", ["random", "zero"])
def test_six_steps_are_the_released_lars(labelled: bool, start: str) -> None:
    options = dict(name="lars", trust=0.02, warmup_epochs=1, steps_per_epoch=2)
    # Each group has its own weight decay, as in the authors' code.
    labels = {"kernel": "one", "bias": "two", "scale": "two"} if labelled else None
    groups = {"two": {"weight_decay": 0.5}} if labelled else {}
    schedule, optimizer = make(**options, labels=labels, groups=groups)
    params, grads = random_tree(0), [random_tree(1 + step) for step in range(6)]
    if start == "zero":
        params["kernel"] = np.zeros_like(params["kernel"])
        grads[0]["kernel"] = np.zeros_like(params["kernel"])
    expected = {
        name: released_lars(
            params[name].astype(np.float64),
            [grad[name] for grad in grads],
            lambda step: float(schedule(step)),
            momentum=OPTIONS["momentum"],
            weight_decay=OPTIONS["weight_decay"],
            trust=0.02,
        )
        for name in SHAPES
    }
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for step, grad in enumerate(grads):
        updates, state = jax.jit(optimizer.update)(grad, state, params)
        params = optax.apply_updates(params, updates)
        for name in SHAPES:
            np.testing.assert_allclose(
                params[name], expected[name][step], rtol=1e-5, atol=1e-6
            )


def released_rate(step: int, *, rate: float, epochs: int, steps: int) -> float:
    """idstcv/CoKe at 77228ae, main_single_view.py:388-397."""
    warmup = 11 * steps
    cosine = np.cos(np.pi * (step - warmup) / (epochs * steps - warmup))
    epoch = step // steps
    if epoch == 0:
        return 0.0
    if epoch < 11:
        return rate * max(1, step - steps) / (warmup - steps)
    return rate * (1 + cosine) / 2


def test_still_epochs_and_warm_up_are_the_released_ones() -> None:
    options = dict(learning_rate=1.6, epochs=20, steps_per_epoch=4)
    every = rates(range(80), **options, still_epochs=1, warmup_epochs=10)
    expected = [released_rate(i, rate=1.6, epochs=20, steps=4) for i in range(80)]
    # One step is ours: the authors' code repeats the rate of the second step here.
    assert every[4] == 0 and np.isclose(expected[4], expected[5])
    expected[4] = 0
    np.testing.assert_allclose(every, expected, rtol=2e-5, atol=1e-7)


def test_still_epochs_without_warm_up_begin_the_schedule_later() -> None:
    every = rates(range(32), still_epochs=2)
    assert not every[:8].any()
    expected = 0.15 * (1 + np.cos(np.pi * np.arange(24) / 24))
    np.testing.assert_allclose(every[8:], expected, rtol=1e-5, atol=1e-7)
    every = rates(range(32), still_epochs=2, schedule="steps")
    np.testing.assert_allclose(every[8:], rates(range(8, 32), schedule="steps"))
    every = rates(range(32), still_epochs=1, restart_epochs=(4,), restart_rates=(0.2,))
    np.testing.assert_allclose(every[[3, 4, 16]], [0, 0.3, 0.2], rtol=1e-5)


def test_cosine() -> None:
    # 32 steps: the peak, three quarters, half, a quarter, and the end.
    np.testing.assert_allclose(rates([0]), [0.3], rtol=1e-6)
    thirds = rates([32 / 3, 16, 64 / 3])
    np.testing.assert_allclose(thirds, [0.225, 0.15, 0.075], rtol=1e-5)
    np.testing.assert_allclose(rates([32, 33, 100]), [0, 0, 0], atol=1e-8)
    every = rates(range(33))
    assert np.all(np.diff(every) < 0)
    expected = 0.15 * (1 + np.cos(np.pi * np.arange(33) / 32))
    np.testing.assert_allclose(every, expected, rtol=1e-5, atol=1e-7)


def test_steps_drop_at_the_start_of_a_milestone() -> None:
    expected = np.repeat([0.3, 0.03, 0.003], [12, 8, 12])
    every = rates(range(32), schedule="steps")
    np.testing.assert_allclose(every, expected, rtol=1e-5)


def test_steps_without_milestones_are_constant() -> None:
    every = rates(range(32), schedule="steps", milestones=())
    np.testing.assert_allclose(every, 0.3, rtol=1e-6)
    every = rates(range(32), schedule="steps", milestones=(8, 400))
    np.testing.assert_allclose(every, 0.3, rtol=1e-6)


def test_warm_up_joins_cosine() -> None:
    every = rates(range(33), warmup_epochs=2)
    np.testing.assert_allclose(every[:9], 0.3 * np.arange(9) / 8, rtol=1e-5)
    # The rest of the epochs, not all of them, are left for the way down.
    expected = 0.15 * (1 + np.cos(np.pi * np.arange(25) / 24))
    np.testing.assert_allclose(every[8:], expected, rtol=1e-5, atol=1e-7)


def test_warm_up_does_not_shift_the_milestones() -> None:
    every = rates(range(32), warmup_epochs=2, schedule="steps")
    plain = rates(range(32), schedule="steps")
    np.testing.assert_allclose(every[:8], 0.3 * np.arange(8) / 8, rtol=1e-5)
    np.testing.assert_allclose(every[8:], plain[8:], rtol=1e-5)


def test_the_optimizer_follows_the_schedule() -> None:
    schedule, optimizer = make(
        momentum=0.0, weight_decay=0.0, warmup_epochs=1, schedule="steps"
    )
    update = jax.jit(optimizer.update)
    params = jnp.zeros(())
    state, steps = optimizer.init(params), []
    for _ in range(24):
        updates, state = update(jnp.ones(()), state, params)
        steps.append(-float(updates))
    np.testing.assert_allclose(steps, [schedule(i) for i in range(24)], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(schedule="linear"), "'linear': choose one of cosine, steps"),
        (dict(learning_rate=0.0), "learning_rate=0.0: set it above 0"),
        (dict(learning_rate=-0.1), "learning_rate=-0.1"),
        (dict(learning_rate=float("nan")), "learning_rate=nan"),
        (dict(momentum=1.0), r"momentum=1.0: set it in \[0, 1\)"),
        (dict(momentum=-0.1), "momentum=-0.1"),
        (dict(weight_decay=-1e-4), "weight_decay=-0.0001: set it to 0 or above"),
        (dict(warmup_epochs=8), "warmup_epochs=8, but train.epochs=8: .* 0 to 7"),
        (dict(warmup_epochs=-1), "warmup_epochs=-1"),
        (dict(still_epochs=-1), "still_epochs=-1, but train.epochs=8: .* 0 to 7"),
        (dict(still_epochs=8), "still_epochs=8, but train.epochs=8: .* 0 to 7"),
        (
            dict(still_epochs=2, warmup_epochs=6),
            "warmup_epochs=6, but .*=8 and optimizer.still_epochs=2: .* 0 to 5",
        ),
        (dict(name="adam"), "name='adam': choose one of sgd, lars"),
        (dict(name="lars", trust=0.0), "trust=0.0: set it above 0"),
        (
            dict(still_epochs=2, restart_epochs=(2,), restart_rates=(0.1,)),
            "restart_epochs=.*after the first 2, of still epochs and warm-up",
        ),
        (dict(decay=-0.1, schedule="steps"), "decay=-0.1"),
    ],
)
def test_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^optimizer.*{message}"):
        make(**changes)


def test_the_ends_of_the_ranges_are_in_them() -> None:
    make(momentum=0.0, weight_decay=0.0, warmup_epochs=0)
    make(momentum=0.999, warmup_epochs=7)
