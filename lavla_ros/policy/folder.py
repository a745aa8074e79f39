"""The folder that a policy's and a latent action model's checkpoint share.

``config.yaml``, ``contract.yaml``, ``stats.json`` (normalisation) and ``model.safetensors``; each kind adds its own
files. No pickle anywhere. Whatever is missing, damaged or does not fit is a CheckpointError that says what.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.policy.checkpoint_files import CONFIG, CONTRACT, SCHEMA, STATS, WEIGHTS, CheckpointError, fingerprint
from lavla_ros.policy.normalization import StatsError, load_stats
from lavla_ros.yaml_text import dump_yaml, load_yaml

__all__ = [
    "CONFIG",
    "CONTRACT",
    "SCHEMA",
    "STATS",
    "WEIGHTS",
    "CheckpointError",
    "CheckpointFiles",
    "fingerprint",
    "read_files",
    "read_fitting_tensors",
    "read_tensors",
    "require_fitting",
    "staged",
    "trained_parameters",
    "write_files",
]


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """What the shared files say, but for the weights."""

    document: Mapping[str, Any]
    """config.yaml, of the right schema."""
    contract: Contract
    stats: Mapping[str, Any]


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint stores: every parameter that is trained (a frozen backbone is named by its path)."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A new folder to fill, which then replaces ``path`` whole: an interruption leaves the old one or the new one."""
    staging = path.with_name(path.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for file in staging.rglob("*.safetensors"):  # safetensors lets its writer alone read them
            file.chmod(staging.stat().st_mode & 0o666)
        _replace(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, path: Path) -> None:
    """Put a finished directory in the place of another one. Only renames: no half-written state."""
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    staging.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_files(
    folder: Path,
    document: Mapping[str, Any],
    contract: Contract,
    stats: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write the shared files; ``document`` is config.yaml, to which the schema is added."""
    (folder / CONFIG).write_text(dump_yaml({"schema": SCHEMA, **document}), encoding="utf-8")
    (folder / CONTRACT).write_text(dump_yaml(contract.to_dict()), encoding="utf-8")
    (folder / STATS).write_text(json.dumps(stats, indent=1), encoding="utf-8")
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # one entry: safetensors writes several in random order, and equal models must be equal files
    save_file(flat, str(folder / WEIGHTS), metadata={"contract": contract.hash})


def read_files(path: Path, what: str, *, section: str, also: tuple[str, ...] = ()) -> CheckpointFiles:
    """Check that ``path`` holds a ``what`` and read its shared files, but for the weights.

    ``section`` is a key that its config.yaml must have, ``also`` are further files that must exist. Raises
    CheckpointError.
    """
    if not path.is_dir():
        raise CheckpointError(f"{what} {path} is not a directory; give the folder that holds {CONFIG}")
    missing = [name for name in (CONFIG, CONTRACT, STATS, WEIGHTS, *also) if not (path / name).exists()]
    if missing:
        inside = [name for name in ("best", "last", "model") if (path / name / WEIGHTS).exists()]
        hint = f"did you mean {path / inside[0]}?" if inside else "copy the whole directory again"
        raise CheckpointError(f"{what} {path} lacks {', '.join(missing)}; {hint}")
    file = path / CONFIG
    try:
        document = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or section not in document:
        raise CheckpointError(f"{file} is not the configuration of a {what} of schema {SCHEMA}")
    try:
        return CheckpointFiles(document, load_contract(path / CONTRACT), load_stats(path / STATS))
    except (ContractError, StatsError) as error:
        raise CheckpointError(f"{what} {path}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises CheckpointError when it is truncated or no such file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); copy it again") from None


def read_fitting_tensors(
    file: Path, expected: Mapping[str, Tensor], contract: Contract, *, hint: str = ""
) -> dict[str, Tensor]:
    """Exactly the ``expected`` tensors, by name and shape, finite, and written under ``contract``.

    Raises CheckpointError that lists everything that does not fit; ``hint`` says what to look at.
    """
    tensors = read_tensors(file)
    with safe_open(str(file), framework="pt") as opened:
        written_for = (opened.metadata() or {}).get("contract")
    if not contract.has_hash(written_for):
        raise CheckpointError(
            f"{file} was trained under a contract with hash {written_for}, but {CONTRACT} beside it has "
            f"{contract.hash}: one of the two files was replaced"
        )
    require_fitting(tensors, expected, f"{file} does not fit {CONFIG} beside it{hint}")
    return tensors


def require_fitting(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], said: str) -> None:
    """Raise CheckpointError that lists what is missing, unexpected, of another shape or not finite, after ``said``."""
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        have, want = tuple(tensors[name].shape), tuple(expected[name].shape)
        if have != want:
            problems.append(f"{name} has shape {have}, expected {want}")
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} holds values that are not finite")
    if problems:
        shown = "\n  ".join(problems[:12]) + (f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else "")
        raise CheckpointError(f"{said}:\n  {shown}")
