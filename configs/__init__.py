"""Configurations: `default` names every key once, the others change some."""
