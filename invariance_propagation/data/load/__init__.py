"""Pixels for each step: decoding, streams, and worker processes."""
