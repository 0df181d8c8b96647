"""Data: where images come from, in which order they are used, and their views."""
