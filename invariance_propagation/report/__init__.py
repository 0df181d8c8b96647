"""One page about a run or several, to be read in any browser, offline."""

from invariance_propagation.report.write import write_report

__all__ = ["write_report"]
