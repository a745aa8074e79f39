"""Files of tensors that other projects publish: the one place where a pickle is opened."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from zipfile import is_zipfile

import torch

from lavla_ros.policy.folder import CheckpointError, read_tensors


def read_foreign(path: Path) -> Mapping[str, object]:
    """What a ``.safetensors`` file, or a pickle of ``torch.save``, holds under its names.

    Of a pickle tensors and plain containers are built, and nothing in it is run (``weights_only``, whose ways around
    were closed in torch 2.6; setup.py asks for a newer one). Raises CheckpointError for any other pickle, and for what
    has no names.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors alone ({str(error).splitlines()[0]}), and nothing else in a pickle is "
            "run; give a .safetensors file of the same tensors"
        ) from None
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; expected names and tensors")
    return found
