"""Measures how good the features of an encoder are."""
