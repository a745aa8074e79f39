"""Where a network computes, checked before anything is loaded onto it."""

from __future__ import annotations

import torch

from lavla_ros.errors import UserError


class DeviceError(UserError, ValueError):
    """A device that this machine does not have; the message says what it has."""


def resolve_device(name: str) -> torch.device:
    """The torch device of a name: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` is a GPU where there is one.

    Raises DeviceError for a name that torch does not know, and for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device is {name!r}; expected cpu, cuda, or cuda:N for GPU number N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "CUDA finds no GPU"
            raise DeviceError(f"device is {name!r}, but {why}; use device cpu")
        if device.index is not None and device.index >= count:
            raise DeviceError(f"device is {name!r}, but there are {count} GPUs: cuda:0 to cuda:{count - 1}")
    elif device.type != "cpu":
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            first = str(error).partition("\n")[0]
            raise DeviceError(f"device is {name!r}, which this machine cannot use ({first}); use device cpu") from None
    return device
