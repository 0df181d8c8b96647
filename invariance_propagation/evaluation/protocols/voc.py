"""The protocol `voc07_svm`: SVMs on PASCAL VOC 2007, with several classes per image."""

from collections.abc import Iterator

from invariance_propagation.data.sources.voc import voc2007
from invariance_propagation.evaluation.protocols import svm
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    other_folder_named,
)

VERSION = 3


def jobs(request: Request) -> Iterator[list[Job]]:
    """Fits an SVM for each of the 20 classes."""
    folder = request.sections["other"]["tfds_folder"]
    with other_folder_named():
        dataset = voc2007(folder, size=request.view.size)
    bench = request.bench_of(dataset)
    targets = dataset.train.labels
    settings = svm.settings_of(bench, targets)
    measure = svm.measure_targets(targets, dataset.held_out.labels)
    yield [Job("voc07_svm", VERSION, settings, bench, measure, by_chance=False)]


VOC07_SVM = Protocol(jobs, sections=("other",), own_data=True)
