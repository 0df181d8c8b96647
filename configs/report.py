"""A page about a run, or about several side by side: report.html, to be read offline.

    python main.py --config=configs/report.py --workdir=runs/digits

Curves, health, what propagation reaches, nearest neighbours, a map, the evaluation cards
that there are, config and versions. The run may still be training. Time: on digits a quarter of a minute on 2 cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The arguments of `write_report`; nothing of the run's config is repeated."""
    config = ConfigDict()
    config.task = "report"
    # A run's --workdir; of several, commas between.
    config.workdir = ""
    # The file; '': report.html in the workdir, of several comparison.html in the first.
    config.output = ""
    return config.lock()
