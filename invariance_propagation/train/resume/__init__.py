"""Stops runs and continues them, also with other images, epochs or weights."""
