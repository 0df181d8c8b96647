"""Online Deep Clustering learns: a small network on the digits, some seconds."""

from pathlib import Path

from configs import digits
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate


def test_features_and_clusters_get_better(tmp_path: Path) -> None:
    config = digits.get_config("odc")
    config.num_devices, config.augmentation = 1, "host"
    config.encoder.update(depth=6, width=8, hidden=64, dim=32)
    config.optimizer.learning_rate = 0.2
    config.train.update(epochs=16, evaluate_every=0, log_every=10)
    summary = train_and_evaluate(config, str(tmp_path))
    rows = [row for row in read_rows(tmp_path) if "label_changes" in row]
    # Of 65 % before and above 80 % after; the clusters are no better than chance at first.
    assert summary["knn_trained"] > summary["knn_untrained"] + 0.1
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[-1]["label_changes"] < 0.7 * rows[0]["label_changes"]
    assert summary["cluster_purity"] > 0.4
    assert all(row["smallest_cluster"] >= 5 for row in rows)
