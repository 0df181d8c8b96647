"""A protocol in one module: accuracy of the nearest class mean."""

from collections.abc import Iterator

import numpy as np

from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
)
from invariance_propagation.evaluation.subjects import Scores, Subject

OPTIONS = {"distance": "euclidean"}


def jobs(request: Request) -> Iterator[list[Job]]:
    bench = request.bench()
    labels = bench.dataset.train.labels

    def measure(subject: Subject, seed: int) -> Scores:
        del seed
        features, queries = subject.features(), subject.queries()
        means = [features[labels == c].mean(axis=0) for c in range(bench.num_classes)]
        distances = np.linalg.norm(queries[:, None] - np.stack(means), axis=-1)
        right = distances.argmin(axis=1) == bench.dataset.held_out.labels
        yield "top1", float(np.mean(right))

    settings = make_settings(bench, OPTIONS)
    yield [Job("toy", 1, settings, bench, measure, by_chance=False)]


TOY = Protocol(jobs)
