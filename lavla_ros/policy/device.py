"""Where a network computes, checked before anything is loaded onto it."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from lavla_ros.errors import UserError


class DeviceError(UserError, ValueError):
    """A device that this machine does not have; the message says what it has."""


def resolve_device(name: str) -> torch.device:
    """The torch device of a name: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` is a GPU if there is one.

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


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch type of ``float32``, ``bfloat16`` or ``auto``: bfloat16 on a GPU that has it, else float32.

    Raises DeviceError for bfloat16 on a GPU without it, and for another name.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise DeviceError(f"dtype is {name!r}; expected auto, float32 or bfloat16")
    if name == "float32" or (name == "auto" and device.type == "cpu"):
        return torch.float32
    if not _has_bfloat16(device):
        if name == "auto":
            return torch.float32
        raise DeviceError(
            f"dtype is bfloat16, which device {str(device)!r} does not compute in; use dtype float32 "
            "(in training: precision: float32)"
        )
    return torch.bfloat16


def require_compiler(device: torch.device) -> None:
    """Raise DeviceError unless what torch.compile needs is installed."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise DeviceError("torch.compile needs the triton package on a GPU; install it, or do not compile")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise DeviceError("torch.compile needs a C++ compiler, and there is no g++ here; install it, or do not compile")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            found: bool = torch.cuda.is_bf16_supported(including_emulation=False)
            return found
    one = torch.ones(2, 2, dtype=torch.bfloat16)
    try:
        return float(one.to(device).mm(one.to(device)).sum()) == 8.0
    except (RuntimeError, TypeError, NotImplementedError):
        return False
