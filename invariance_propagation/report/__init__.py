"""Writes one page about a run, or about several, to read offline in any browser."""

from invariance_propagation.report.write import write_report

__all__ = ["write_report"]
