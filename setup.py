"""Adds the configs to the package, whose other facts are in pyproject.toml.

In the sources they lie at the top, in configs/; in a wheel they are the package
invariance_propagation.configs, so that no package `configs` is installed beside it.
"""

from setuptools import find_packages, setup

HOME = "invariance_propagation.configs"
configs = find_packages(include=["configs", "configs.*"])
setup(
    packages=[
        *find_packages(include=["invariance_propagation", "invariance_propagation.*"]),
        *(name.replace("configs", HOME, 1) for name in configs),
    ],
    package_dir={HOME: "configs"},
)
