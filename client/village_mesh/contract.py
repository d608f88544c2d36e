"""The generated modules of a package, which the descriptors of its messages and methods come with."""

from __future__ import annotations

import functools
import importlib
import pkgutil


@functools.cache
def load(package: str) -> None:
    """Imports all of a package, as `village.habitat.v1`. ImportError when there is none."""
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")
