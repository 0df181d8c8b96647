"""Classifiers of a subject, frozen and fine-tuned: streams, augmentation, few labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.sources.folder import image_folder
from invariance_propagation.devices import make_runner
from invariance_propagation.evaluation.bench import Bench, View, make_bench
from invariance_propagation.evaluation.classifier import training
from invariance_propagation.evaluation.protocols import linear, semi
from invariance_propagation.evaluation.protocols.subsets import draw_share
from invariance_propagation.evaluation.subjects import pixels, untrained
from invariance_propagation.parallel import AXIS
from tests.tiny import TinyBackbone

VIEW = View(8, (0.5,) * 3, (0.25,) * 3)
LINEAR = linear.SMALL._replace(epochs=8, batch_size=16, milestones=())
SEMI = semi.SMALL._replace(epochs=6, batch_size=8, milestones=(), learning_rate=0.1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two kinds of pictures, dark and bright, of all shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for kind, level in (("dark", 60), ("bright", 190)):
        (folder / kind).mkdir()
        for i in range(60):
            shape = (*random.integers(9, 20, size=2), 3)
            image = np.clip(random.normal(level, 20, shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / kind / f"{i}.png")
    dataset = image_folder(str(folder), classes=True, held_out=0.25, size=8)
    return make_bench(make_runner("pmap", 2), dataset, VIEW, 2)


def network(bench: Bench, seed: int = 0):
    return untrained(bench, TinyBackbone(AXIS), seed)


@pytest.mark.parametrize("crop_scale", [(), (0.5, 1.0)])
def test_a_probe_of_streamed_pictures(bench: Bench, crop_scale: tuple) -> None:
    options = LINEAR._replace(crop_scale=crop_scale)
    scores = dict(training.probe(bench, options)(network(bench), 0))
    assert scores == {"top1": 1.0}


def test_without_augmentation_features_are_computed_once(bench: Bench) -> None:
    subject, calls = network(bench), []
    counted = subject._replace(features=lambda: calls.append(0) or subject.features())
    options = LINEAR._replace(flip=0.0, learning_rate=0.1)
    assert dict(training.probe(bench, options)(counted, 0)) == {"top1": 1.0}
    assert calls == [0]


def test_pixels_are_the_middle_of_the_picture_in_0_to_1(bench: Bench) -> None:
    subject, train = pixels(bench), bench.dataset.train
    expected = train.images[:].reshape(len(train.labels), -1) / 255
    np.testing.assert_allclose(subject.features(), expected, atol=1e-6)
    assert subject.queries().shape == (len(bench.dataset.held_out.labels), 192)


@pytest.mark.parametrize("crop_scale", [(), (0.5, 1.0)])
def test_few_labels_are_enough_to_tell_dark_from_bright(
    bench: Bench, tmp_path: Path, crop_scale: tuple
) -> None:
    options = SEMI._replace(crop_scale=crop_scale)
    subset = semi.few_labels(bench, tmp_path)
    train = bench.dataset.train
    for seed in (0, 1):
        few = subset(0.2, seed)
        rows = draw_share(train.labels, 0.2, seed=seed)
        np.testing.assert_array_equal(few.labels, train.labels[rows])
        np.testing.assert_array_equal(few.images[:3], train.images[:][rows[:3]])
        assert list(few.ids) == [train.ids[i] for i in rows]
    measure = training.finetune(bench, options, lambda seed: subset(0.2, seed))
    for seed in (0, 1):
        assert dict(measure(network(bench), seed))["top1"] > 0.9
    lists = sorted((tmp_path / "label_lists").iterdir())
    assert [path.name.rpartition("-")[0] for path in lists] == [
        f"{bench.dataset.name}-20pct-seed{seed}" for seed in (0, 1)
    ]


def test_a_view_is_a_function_of_seed_epoch_and_image(bench: Bench) -> None:
    images = np.stack([bench.dataset.train.images[:1][0]] * 3)
    train = bench.dataset.train._replace(images=images)
    options = LINEAR._replace(crop_scale=(0.3, 1.0))
    given = training.input_of(bench, train.images, options, seed=4, batch_size=2)
    given = given._replace(pick=lambda images, indices: images)
    view, _ = training.make_view(given, 5)

    def made(seed: int, step: int) -> np.ndarray:
        # The same picture three times, by its numbers 7, 8 and 7.
        indices = np.array([7, 8, 7])
        return np.asarray(view(seed, images, indices, step))

    first, other, again = made(4, 9)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(made(4, 5), made(4, 9))
    assert np.abs(made(4, 10) - made(4, 9)).max() > 0.1
    assert np.abs(made(5, 9) - made(4, 9)).max() > 0.1


def test_each_share_of_labels_has_its_scores(bench: Bench) -> None:
    asked = []

    def subset(share: float, seed: int):
        asked.append((share, seed))
        return bench.dataset.train.take(np.arange(9))

    options = SEMI._replace(epochs=1)
    scores = dict(semi.semi(bench, options, subset, (0.01, 0.1))(network(bench), 3))
    assert list(scores) == ["top1, 1%", "top1, 10%"]
    assert {(0.01, 3), (0.1, 3)} <= set(asked)


def test_a_batch_is_no_larger_than_what_there_is() -> None:
    assert training.count_steps(SEMI, 5) == (5, 1, 6)
    assert training.count_steps(SEMI, 100) == (8, 12, 72)
    assert training.count_steps(SEMI._replace(batch_size=1), 5) == (1, 5, 30)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_twenty_labels_teach_the_same_on_any_number_of_devices(
    bench: Bench, monkeypatch, protocol: str, streamed: bool
) -> None:
    """The same batches, of all labels, and the same classifier."""
    train = bench.dataset.train
    few = train.take(np.arange(0, len(train.labels), 4)[:20])
    if not streamed:
        few = few._replace(images=few.images[:])
    assert len(few.labels) == 20 and len(set(few.labels.tolist())) == 2
    dataset = bench.dataset._replace(train=few)
    logits, seen = [], []
    apply = training.apply_head

    def keep(*args):
        logits.append(apply(*args))
        return logits[-1]

    def bar(feed, total, subject):
        for indices, images, _ in feed:
            flat = np.asarray(indices).ravel()
            seen.append(flat[:20])
            yield indices, images

    monkeypatch.setattr(training, "apply_head", keep)
    monkeypatch.setattr(training, "bar", bar)
    for num_devices in (1, 3, 8):
        runner = make_runner("pmap", num_devices)
        own = make_bench(runner, dataset, VIEW, 2)
        options = SEMI._replace(batch_size=64, crop_scale=(0.5, 1.0))
        if protocol == "linear":
            options = LINEAR._replace(batch_size=64, crop_scale=(0.5, 1.0))
            measure = training.probe(own, options)
        else:
            measure = training.finetune(own, options, lambda seed: few)
        dict(measure(network(own), 0))
    epochs = options.epochs
    assert len(seen) == 3 * epochs
    np.testing.assert_array_equal(seen[:epochs], seen[epochs : 2 * epochs])
    np.testing.assert_array_equal(seen[:epochs], seen[2 * epochs :])
    assert all(sorted(indices) == list(range(20)) for indices in seen)
    one, three, eight = logits
    np.testing.assert_allclose(three, one, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-4)
    assert np.abs(one).max() > 0.1
