"""The policy as the rest of the system sees it: Observation in, ActionChunk out."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.errors import FailedError
from lavla_ros.policy.checkpoint import TOKENIZER, LoadedCheckpoint, load_checkpoint
from lavla_ros.policy.checkpoint_files import BUNDLED, FP2T, OURS, checkpoint_path, is_policy
from lavla_ros.policy.device import resolve_device, resolve_dtype
from lavla_ros.policy.folder import read_files
from lavla_ros.policy.fp2t import load_fp2t
from lavla_ros.policy.fused import FusedPolicy
from lavla_ros.policy.images import shrink
from lavla_ros.policy.inputs import ObservationError, observed_images, observed_state
from lavla_ros.policy.runner import Runner, record_cuda_graph

__all__ = [
    "BUNDLED",
    "ObservationError",
    "Policy",
    "VlaPolicy",
    "checkpoint_contract",
    "checkpoint_path",
    "load_policy",
]


class Policy(Protocol):
    """Anything that turns observations into chunks of actions."""

    @property
    def contract(self) -> Contract: ...

    def reset(self) -> None:
        """Forget the current episode."""

    def predict(self, observation: Observation) -> ActionChunk:
        """The next H actions. Raises ObservationError for an observation that doesn't fit."""


class VlaPolicy:
    """A trained LatentActionVLA. Stateless between calls; same input, same bits."""

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        *,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "auto",
        graph: bool = True,
    ) -> None:
        """Takes the weights out of ``checkpoint.model``, which is of no use afterwards.

        ``threads``: CPU threads of torch (of the whole process); None leaves them as they are. ``dtype``: what is
        computed in; auto: bfloat16 on a GPU that has it, else float32. ``graph``: on a GPU, replay one CUDA graph.

        Raises DeviceError for a device that this machine does not have, and a type that the device does not have.
        """
        use_threads(threads)
        self.checkpoint = checkpoint
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._size = checkpoint.model.backbone.image_size
        contract = checkpoint.contract
        network = FusedPolicy(checkpoint.model, cameras=len(contract.cameras), device=self.device, dtype=self.dtype)
        self._run = Runner(
            network,
            lambda instruction: checkpoint.prompt([instruction])[0],
            pad=int(checkpoint.tokenizer.pad_token_id),
            record=record_cuda_graph if graph and self.device.type == "cuda" else None,
        )

    @property
    def contract(self) -> Contract:
        return self.checkpoint.contract

    def reset(self) -> None:
        """Nothing to forget: every chunk depends on one observation only."""

    def predict(self, observation: Observation) -> ActionChunk:
        """One forward pass (raises ObservationError)."""
        contract = self.contract
        views = observed_images(observation, contract)
        images = np.stack([shrink(view, self._size) for view in views])
        state = observed_state(observation, contract)
        coded = self._run(images, self.checkpoint.normalizer.encode_state(state), observation.instruction)
        actions = self.checkpoint.normalizer.decode_actions(coded, state)
        if not np.isfinite(actions).all():
            raise FailedError(f"the policy in {self.checkpoint.path} produced actions that are not finite")
        return ActionChunk(
            stamp_ns=observation.stamp_ns,
            dt_ns=contract.dt_ns,
            actions_HA=actions,
            names=contract.action.names,
        )


def use_threads(threads: int | None) -> None:
    """Set the CPU threads of torch, for the whole process; None leaves them as they are. Raises ConfigError."""
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"threads is {threads}; expected at least 1")
    torch.set_num_threads(threads)


def checkpoint_contract(path: str | Path) -> Contract:
    """The contract that a policy was trained under, of files that are all there; the weights are not read.

    Raises CheckpointError.
    """
    folder = checkpoint_path(path)
    if is_policy(folder, FP2T):
        return read_files(folder, "checkpoint", section=FP2T).contract
    return read_files(folder, "checkpoint", section=OURS, also=(TOKENIZER,)).contract


def load_policy(path: str | Path, *, device: str = "cpu", threads: int | None = None, dtype: str = "auto") -> Policy:
    """The policy of a checkpoint directory, ours or a released one that was imported; ``"bundled"`` is the one shipped
    with the package.

    ``dtype``: as of :class:`VlaPolicy`. Raises CheckpointError naming the file at fault and the fix, DeviceError before
    anything is loaded.
    """
    folder = checkpoint_path(path)
    if is_policy(folder, FP2T):
        use_threads(threads)
        return load_fp2t(folder, device=device, dtype=dtype)
    computed_in = resolve_dtype(dtype, resolve_device(device))
    checkpoint = load_checkpoint(folder, dtype=computed_in)
    return VlaPolicy(checkpoint, device=device, threads=threads, dtype=dtype)
