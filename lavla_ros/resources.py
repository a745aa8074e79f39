"""Where the package's own files are, in a checkout, a pip install and a colcon install alike."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = "lavla_ros"


def share_path() -> Path:
    """Folder that holds ``config/`` and ``launch/``: the checkout, else ``share/lavla_ros``.

    Raises FileNotFoundError naming every place that was looked at.
    """
    checkout = Path(__file__).resolve().parents[1]
    candidates = [checkout, Path(sys.prefix) / "share" / PACKAGE]
    # colcon: <prefix>/lib/python3.x/site-packages/lavla_ros/resources.py
    candidates += [parent / "share" / PACKAGE for parent in Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "config" / "contracts").is_dir():
            return candidate
    looked = ", ".join(str(c) for c in candidates[:2])
    raise FileNotFoundError(f"the files of {PACKAGE} (config/, launch/) were found in none of: {looked}; reinstall it")


def config_path(relative: str) -> Path:
    """A file below ``config/``, e.g. ``contracts/jaka_minicobo.yaml``. FileNotFoundError lists siblings."""
    file = share_path() / "config" / relative
    if not file.exists():
        siblings = sorted(p.stem for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise FileNotFoundError(f"{file} does not exist; available: {siblings}")
    return file


def config_file(name: str | Path, folder: str) -> Path:
    """A YAML file by its path, or the shipped ``config/FOLDER/NAME.yaml`` by its bare name.

    FileNotFoundError lists the shipped ones.
    """
    text = str(name)
    is_path = "/" in text or text.endswith((".yaml", ".yml", ".json"))
    return Path(text) if is_path else config_path(f"{folder}/{text}.yaml")
