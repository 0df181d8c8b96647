"""Protocols of evaluation: what is measured, on what, and by which numbers."""
