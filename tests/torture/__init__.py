"""A long trial of what must not be lost: make torture."""
