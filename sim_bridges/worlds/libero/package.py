"""Import of the LIBERO package without its questions and without writing into the user's home.

At its import it wants ``config.yaml`` below ``LIBERO_CONFIG_PATH`` (default: ~/.libero) and calls ``input()`` where
there is none; at the first environment it downloads assets. Here it gets a configuration of its own in a temporary
folder, and the assets that were found before.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sim_bridges.worlds.libero.tasks import LiberoError, package_folder

_CONFIG_PATH = "LIBERO_CONFIG_PATH"


def import_libero(assets: Path) -> Any:
    """The module ``libero.libero.envs``, whose scenes are made of ``assets``.

    Raises LiberoError if the package is not installed, cannot be loaded, or its configuration is missing from the
    folder that the user's own ``LIBERO_CONFIG_PATH`` names.
    """
    package_folder()
    # robosuite recommends a file of private settings on every import; settings are part of the protocol here.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    try:
        with _configured(), without_log_file():
            package: Any = importlib.import_module("libero.libero")
        package._assets_path_cache = str(assets)
        with without_log_file():
            return importlib.import_module("libero.libero.envs")
    except ModuleNotFoundError as error:
        raise LiberoError(f"LIBERO lacks the package {error.name!r}: run `make` again (docs/libero.md)") from None


@contextmanager
def without_log_file() -> Iterator[None]:
    """At its import robosuite opens /tmp/robosuite.log, which on a shared machine is the first user's."""
    usual = logging.FileHandler

    class _Nowhere(usual):  # type: ignore[misc, valid-type]
        def __init__(self, filename: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(os.devnull if Path(filename).name == "robosuite.log" else filename, *arguments, **options)

    logging.FileHandler = _Nowhere  # type: ignore[misc]
    try:
        yield
    finally:
        logging.FileHandler = usual  # type: ignore[misc]


@contextmanager
def _configured() -> Iterator[None]:
    """A configuration that asks the user nothing, while the package is being imported."""
    if "libero.libero" in sys.modules:
        yield
        return
    own = os.environ.get(_CONFIG_PATH)
    if own:
        if not (Path(own) / "config.yaml").is_file():
            raise LiberoError(
                f"{_CONFIG_PATH} is {own}, which holds no config.yaml; unset it (nothing of it is needed here), "
                "or let LIBERO write one"
            )
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="lavla-libero-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = package_folder()
    paths = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": package / "assets",
    }
    (folder / "config.yaml").write_text(
        yaml.safe_dump({key: str(path) for key, path in paths.items()}), encoding="utf-8"
    )
    os.environ[_CONFIG_PATH] = str(folder)
    try:
        yield
    finally:
        del os.environ[_CONFIG_PATH]
