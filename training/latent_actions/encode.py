"""The action model as a tokenizer of its own: chunks of physical actions ⇄ H codes each, as one would use FAST.

    tokenizer = ActionTokenizer.load(Path("runs/latent_action/model"))
    codes = tokenizer.encode(actions, states)     # (N, H, m) and (N, S) → (N, H)
    actions = tokenizer.decode(codes, states)     # and back

``lavla latent encode`` and ``lavla latent decode`` do the same with files.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError
from lavla_ros.outputs import new_file
from lavla_ros.policy.device import resolve_device
from lavla_ros.policy.normalization import relative_indices
from training.dataset import EpisodeDataset
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import load_latent_model

_BATCH = 1024
"""Chunks that go through the network at once."""


class EncodeError(UserError, ValueError):
    """Actions, states or codes that the tokenizer can't take; the message says what was expected."""


class ActionTokenizer:
    """A frozen action model (paper, Sec. 3.2.2) between numpy arrays."""

    def __init__(self, model: ActionLatentModel) -> None:
        self.model = model
        contract = model.contract
        self.chunk_size = contract.chunk_size
        """H: codes of a chunk."""
        self.codebook_size = model.config.codebook_size
        """K: codes are 0 … K - 1."""
        self.action_names = contract.action.names
        self.state_names = contract.state.names
        self.needs_states = len(relative_indices(contract, model.config.actions)[0]) > 0
        """Whether actions are coded relative to the state that was observed when they were chosen."""

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> ActionTokenizer:
        """From a model's directory. Raises CheckpointError when it is damaged or no action model."""
        return cls(load_latent_model(path, ActionLatentModel).to(resolve_device(device)))

    def encode(
        self, actions: NDArray[np.floating[Any]], states: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.int64]:
        """(N, L, m) actions in the contract's units, or one chunk (L, m), and (N, S) or (S,) states → (N, H) or (H,).

        L is H, or less: the last action is repeated then (App. A.2). ``states`` may be left out where
        ``needs_states`` is false. Raises EncodeError for other shapes and for values that are not finite.
        """
        if actions.ndim == 2:
            (only,) = self.encode(actions[None], None if states is None else states[None])
            return np.asarray(only)
        length, width = self.chunk_size, len(self.action_names)
        if actions.ndim != 3 or not 1 <= actions.shape[1] <= length or actions.shape[2] != width:
            raise EncodeError(
                f"actions have shape {actions.shape}; expected (N, L, m) with L from 1 to {length} and m = {width} "
                f"({', '.join(self.action_names)}); cut longer trajectories into windows of {length}"
            )
        _require_finite("actions", actions)
        states = self._states(states, len(actions))
        whole = actions[:, np.minimum(np.arange(length), actions.shape[1] - 1)]
        parts = [
            self.model.encode_raw(whole[i : i + _BATCH], states[i : i + _BATCH]) for i in range(0, len(whole), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, length), np.int64)

    def decode(
        self, codes: NDArray[np.integer[Any]], states: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.float64]:
        """(N, H) codes, or (H,), and states as for :meth:`encode` → (N, H, m) or (H, m) actions, within the bounds.

        Raises EncodeError for another shape, other than integers, and codes outside the codebook.
        """
        if codes.ndim == 1:
            (only,) = self.decode(codes[None], None if states is None else states[None])
            return np.asarray(only)
        if codes.ndim != 2 or codes.shape[1] != self.chunk_size:
            raise EncodeError(f"codes have shape {codes.shape}; expected (N, H) with H = {self.chunk_size}")
        if codes.dtype.kind not in "iu":
            raise EncodeError(f"codes have dtype {codes.dtype}; expected integers")
        wrong = np.argwhere((codes < 0) | (codes >= self.codebook_size))
        if len(wrong):
            row, step = wrong[0].tolist()
            raise EncodeError(
                f"{len(wrong)} codes are outside the codebook of {self.codebook_size}; the first is "
                f"{codes[row, step]} at chunk {row}, step {step}: they come from another model"
            )
        states = self._states(states, len(codes))
        parts = [
            self.model.decode_raw(codes[i : i + _BATCH], states[i : i + _BATCH]) for i in range(0, len(codes), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.chunk_size, len(self.action_names)))

    def _states(self, states: NDArray[np.floating[Any]] | None, count: int) -> NDArray[np.floating[Any]]:
        expected = (count, len(self.state_names))
        if states is None:
            if self.needs_states:
                raise EncodeError(
                    f"this model codes actions relative to the observed state: give states of shape {expected} "
                    f"({', '.join(self.state_names)})"
                )
            return np.zeros(expected)
        if states.shape != expected:
            raise EncodeError(f"states have shape {states.shape}; expected {expected} ({', '.join(self.state_names)})")
        _require_finite("states", states)
        return states


def encode_file(source: Path, model: Path, out: Path, states: Path | None = None) -> tuple[int, ...]:
    """Encode ``source``, a .npy of chunks or a dataset (every step's chunk), into ``out``; returns the codes' shape."""
    with _new_array(out) as path:
        tokenizer = ActionTokenizer.load(model)
        if source.is_dir():
            if states is not None:
                raise EncodeError(f"{source} is a dataset and has states of its own; leave --states out")
            dataset = EpisodeDataset(source, tokenizer.model.contract)
            actions = np.stack([dataset.chunk(i)[0] for i in range(len(dataset))])
            codes = tokenizer.encode(actions, dataset.states)
        else:
            codes = tokenizer.encode(_floats(read_array(source), source), _read_states(states, tokenizer))
        _save(path, codes.astype(np.int32))
    return codes.shape


def decode_file(source: Path, model: Path, out: Path, states: Path | None = None) -> tuple[int, ...]:
    """Decode a .npy of codes into a .npy of actions; ``states``: a .npy or the dataset that the codes come from."""
    with _new_array(out) as path:
        tokenizer = ActionTokenizer.load(model)
        actions = tokenizer.decode(read_array(source), _read_states(states, tokenizer))
        _save(path, actions)
    return actions.shape


def read_array(path: Path) -> NDArray[Any]:
    """A numeric .npy file. Raises EncodeError when it is none (arrays of objects included: they'd be pickles)."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise EncodeError(f"{path} is no array that can be read: {error}; expected a .npy file") from None
    if not isinstance(array, np.ndarray):
        raise EncodeError(f"{path} holds several arrays; expected a .npy file with one")
    return array


def _read_states(path: Path | None, tokenizer: ActionTokenizer) -> NDArray[np.floating[Any]] | None:
    if path is None:
        return None
    if path.is_dir():
        return EpisodeDataset(path, tokenizer.model.contract).states
    return _floats(read_array(path), path)


def _floats(array: NDArray[Any], path: Path) -> NDArray[np.floating[Any]]:
    if array.dtype.kind not in "fiu":
        raise EncodeError(f"{path} holds {array.dtype}; expected numbers")
    return array.astype(np.float64)


def _require_finite(what: str, values: NDArray[np.floating[Any]]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise EncodeError(f"{what} hold {len(bad)} values that are not finite, the first at index {bad[0].tolist()}")


def _new_array(path: Path) -> AbstractContextManager[Path]:
    if path.suffix != ".npy":
        raise EncodeError(f"the output {path} should end with .npy")
    return new_file(path)


def _save(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:  # a name without .npy would get one
        np.save(file, array, allow_pickle=False)
