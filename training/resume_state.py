"""Everything that a run needs to go on as if it had never stopped. Safetensors and JSON only.

Tensors that FSDP has divided among processes are gathered one by one to be saved, and divided again when read, so a
run can go on with another number of processes. What gathers must be called by all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from lavla_ros.config import from_plain
from lavla_ros.policy.folder import CheckpointError, read_tensors, staged
from training.system_resources import available_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Scalars of the run's state."""

    step: int
    """Optimizer steps done."""
    best: float | None
    """Lowest validation error so far."""
    identity: Mapping[str, Any]
    """What must not change between the parts of one run: settings, contract and data."""
    seconds: float
    """Training time so far."""


class Ema:
    """Exponential moving average of the trained parameters, with a warm-up of the decay."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._sources = parameters
        self.tensors = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step ``step`` (0 for the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        sources = [p.detach().float() for p in self._sources.values()]
        torch._foreach_lerp_(list(self.tensors.values()), sources, 1 - decay)


@contextmanager
def replaced(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], rounded_to: torch.dtype | None = None
) -> Iterator[None]:
    """``tensors`` in the parameters' place, rounded, for the time of the block."""
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name] if rounded_to is None else tensors[name].to(rounded_to))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def state_of(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    rest: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Parameters, moments, averages and the ``rest``, under the names that they are saved under."""
    parts: dict[str, Mapping[str, Tensor]] = {"parameter": parameters}
    for key in ("exp_avg", "exp_avg_sq", "step"):
        parts[f"optimizer/{key}"] = {name: optimizer.state[p][key] for name, p in parameters.items()}
    parts |= {"ema": {} if ema is None else ema.tensors, "rest": rest}
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one after the other. All processes call it; those without ``keep`` get nothing."""
    found = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            found[name] = value.cpu().contiguous()
    return found


def forget_whole_parameters(module: nn.Module) -> None:
    """After passes without a backward one: FSDP keeps its outermost parameters gathered, which are stale as soon as
    the divided ones are written to. A no-op for modules that are not divided."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_divided(module: nn.Module) -> bool:
    """True if FSDP has divided the module's parameters among processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def save_state(path: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write the resume directory, replacing the last one whole. One process calls it."""
    with staged(path) as folder:
        save_file(dict(tensors), str(folder / "state.safetensors"))
        (folder / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")


class StateWriter:
    """Writes the resume directory while training goes on, one state at a time; leaving its block waits for the last."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def wait(self) -> None:
        """Until the last state is written whole. Raises what went wrong with it, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def write(self, path: Path, progress: Progress, tensors: Mapping[str, Tensor], *, live: bool) -> None:
        """``live``: the tensors change while training goes on, so they are copied, or written at once if memory is
        too small for a copy."""
        self.wait()
        if live:
            free, size = available_memory(), sum(tensor.nbytes for tensor in tensors.values())
            if free is not None and 2 * size > free:
                save_state(path, progress, tensors)
                return
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self._writing = self._pool.submit(save_state, path, progress, tensors)


def recover(folder: Path, name: str) -> Path | None:
    """``folder/name``, put back from its predecessor if a crash came between two renames; None: there is none."""
    path, old = folder / name, folder / f"{name}.old"
    if not path.exists() and old.exists():
        old.rename(path)
    return path if path.exists() else None


def load_progress(path: Path) -> Progress:
    """Raises CheckpointError for a damaged file."""
    file = path / "progress.json"
    try:
        return from_plain(Progress, json.loads(file.read_text(encoding="utf-8")), source=file.name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete {path} to start over") from None


def load_state(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    rest: Mapping[str, Tensor],
) -> None:
    """Put the saved tensors back, bit for bit. Raises CheckpointError when one is missing or misshapen."""
    tensors = read_tensors(path / "state.safetensors")

    def take(key: str, like: Tensor) -> Tensor:
        if key not in tensors or tensors[key].shape != like.shape:
            raise CheckpointError(f"{path}: {key} is missing or misshapen; delete {path} to start over")
        value = tensors[key].to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value

    with torch.no_grad():
        for parameter in parameters.values():
            # zeros_like keeps the parameter's memory layout, which the fused optimizer relies on; that one wants its
            # step counter on the parameter's device, another one on the CPU
            device = parameter.device if optimizer.defaults["fused"] else "cpu"
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=device), **moments}
        for key, tensor in state_of(parameters, optimizer, ema, rest).items():
            tensor.copy_(take(key, tensor))
