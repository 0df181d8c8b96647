"""A page about a run, or several side by side: report.html, which opens offline.

    python main.py --config=configs/report.py --workdir=runs/digits

The page shows curves, health, what propagation reaches, nearest neighbours, a map, the
run's evaluation cards, its config and versions. The run may still be training.
Time: on digits a quarter of a minute on 2 cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the arguments of `write_report`; the run's config is read from its workdir."""
    config = ConfigDict()
    config.task = "report"
    # A run's --workdir, or several with commas between them.
    config.workdir = ""
    # The file to write; '': report.html in the workdir; for several runs comparison.html
    # in the first.
    config.output = ""
    return config.lock()
