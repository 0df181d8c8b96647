"""Helpers of the tests of protocols."""

from invariance_propagation.evaluation.subjects import untrained
from invariance_propagation.parallel import AXIS
from tests.tiny import TinyBackbone


def measured(job) -> dict[str, float]:
    subject = untrained(job.bench, TinyBackbone(AXIS), 0)
    scores = dict(job.measure(subject, 0))
    assert all(0 <= value <= 1 for value in scores.values())
    return scores
