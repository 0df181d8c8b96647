"""The protocol `places`: a linear probe for scenes, on Places365 or Places205."""

from collections.abc import Iterator

from invariance_propagation.data.sources.folder import two_folders
from invariance_propagation.evaluation.classifier.training import probe
from invariance_propagation.evaluation.protocols import linear
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
    tfds_bench,
)

VERSION = 2
PLACES365 = "places365"  # of TFDS; any other value of the option is a folder


def jobs(request: Request) -> Iterator[list[Job]]:
    """Trains a classifier of scenes."""
    source = request.sections["other"]["places"]
    if source == PLACES365:
        bench = tfds_bench(request, "places365_small", "train")
    else:
        bench = request.bench_of(two_folders(source, size=request.view.size))
    options = linear.options_for(PLACES365, request)
    settings = make_settings(bench, options)
    yield [Job("places", VERSION, settings, bench, probe(bench, options))]


PLACES = Protocol(jobs, sections=("linear", "other"), own_data=True)
