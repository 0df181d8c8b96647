"""Stops runs and goes on with them, also with other images, epochs or weights."""
