"""A run of Un-Mix on digits."""

from pathlib import Path

from configs import digits
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate


def test_it_learns_digits(tmp_path: Path, optimized: None) -> None:
    """kNN rises ten points over the untrained encoder, and both losses fall."""
    config = digits.get_config("unmix")
    config.num_devices = 2
    config.data.num_train = 640
    config.encoder.width = 8
    config.method.inner.update(background_size=256, start_epoch=6, num_hard=50)
    config.optimizer.update(learning_rate=0.12, warmup_epochs=0)
    config.train.update(epochs=20, evaluate_every=0)
    summary = train_and_evaluate(config, str(tmp_path))
    assert summary["knn_trained"] >= summary["knn_untrained"] + 0.10
    # In epoch 0 the bank is random, and from epoch 6 on there is another term.
    rows = {x["epoch"]: x for x in read_rows(tmp_path) if "clean" in x}
    for name in ("clean", "mixed"):
        assert rows[5][name] < 0.8 * rows[1][name]
