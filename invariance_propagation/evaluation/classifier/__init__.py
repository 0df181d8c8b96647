"""Trains linear classifiers on an encoder that is frozen or that learns with them."""
