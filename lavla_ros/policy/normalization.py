"""Actions and state ⇄ the numbers that the network sees. Inverse pairs, in one place.

State and arm actions are scaled by quantiles of the training data (q01–q99 → [-1, 1]) or by
min–max; grippers apart, by their bounds in the contract. Absolute actions whose names are also
state names may be coded relative to the observed state: matched by name, never by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.errors import UserError
from lavla_ros.policy.config import ActionCodingConfig

STATE_LIMIT = 2.0
"""Normalised state is clipped here: outside the demonstrations the network must stay finite and sane."""
_FLAT = 1e-9


class StatsError(UserError, ValueError):
    """stats.json lacks a key or holds a value that cannot be used."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds that map to -1 and 1; arrays broadcast against the data's last axes."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def encode(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        span = self.high - self.low
        scaled = 2.0 * (values - self.low) / np.where(span > _FLAT, span, 1.0) - 1.0
        return np.where(span > _FLAT, scaled, 0.0)

    def decode(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        span = self.high - self.low
        return np.where(span > _FLAT, (values + 1.0) / 2.0 * span + self.low, self.low)


class Normalizer:
    """Codes states and actions of one contract with the statistics of one training set."""

    def __init__(self, contract: Contract, coding: ActionCodingConfig, stats: Mapping[str, Any]) -> None:
        """``stats`` as made by :func:`compute_stats`. Raises StatsError for a missing or unusable entry."""
        self.contract = contract
        self.coding = coding
        self.stats = stats
        self.arm = np.array(contract.action.arm_indices, dtype=np.int64)
        self.gripper = np.array(contract.action.gripper_indices, dtype=np.int64)
        self._relative_action, self._relative_state = relative_indices(contract, coding)
        keys = ("q01", "q99") if coding.normalization == "quantile" else ("min", "max")
        state_rows = []
        for dim in contract.state.fields:
            bounds = (dim.low, dim.high) if dim.kind == "gripper" else _bounds(stats, "state", dim.name, keys, 1)
            state_rows.append(bounds)
        self._state = Range(*(np.array([np.ravel(r[i])[0] for r in state_rows]) for i in (0, 1)))
        steps = contract.chunk_size
        action_rows = []
        for dim in contract.action.dims:
            bounds = (dim.low, dim.high) if dim.kind == "gripper" else _bounds(stats, "action", dim.name, keys, steps)
            action_rows.append([np.broadcast_to(b, (steps,)) for b in bounds])
        self._action = Range(*(np.stack([r[i] for r in action_rows], axis=-1).astype(np.float64) for i in (0, 1)))

    def encode_state(self, state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(…, S) in the contract's units → (…, S), clipped to ±2."""
        return np.clip(self._state.encode(state), -STATE_LIMIT, STATE_LIMIT).astype(np.float32)

    def encode_actions(
        self, actions: NDArray[np.floating[Any]], state: NDArray[np.floating[Any]]
    ) -> NDArray[np.float32]:
        """(…, H, A) in the contract's units and (…, S) observed state → (…, H, A) in [-1, 1]."""
        return np.clip(self._action.encode(self._to_relative(actions, state)), -1.0, 1.0).astype(np.float32)

    def decode_actions(self, coded: NDArray[np.floating[Any]], state: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(…, H, A) network output and (…, S) observed state → actions in the contract's units.

        The output is clipped to [-1, 1] first and to the contract's bounds last.
        """
        actions = self._action.decode(np.clip(coded.astype(np.float64), -1.0, 1.0))
        actions[..., self._relative_action] += state[..., None, self._relative_state]
        low = np.array([d.low for d in self.contract.action.dims])
        high = np.array([d.high for d in self.contract.action.dims])
        return np.clip(actions, low, high)

    def _to_relative(self, actions: NDArray[np.floating[Any]], state: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        relative = actions.astype(np.float64)
        relative[..., self._relative_action] -= state[..., None, self._relative_state]
        return relative


def relative_indices(contract: Contract, coding: ActionCodingConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the arm's action dimensions coded relative to the state, and of their state fields.

    Raises StatsError when relative coding is asked for and cannot be done.
    """
    if not coding.relative_actions or contract.action.mode == "delta":
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    state_names = contract.state.names
    arm = [d.name for d in contract.action.dims if d.kind == "arm"]
    missing = [name for name in arm if name not in state_names]
    if missing:
        raise StatsError(
            f"actions.relative_actions is true, but {missing} are not in the state of contract {contract.name!r} "
            f"({list(state_names)}); set relative_actions: false"
        )
    action = np.array([contract.action.names.index(name) for name in arm], dtype=np.int64)
    return action, np.array([state_names.index(name) for name in arm], dtype=np.int64)


def compute_stats(
    contract: Contract,
    coding: ActionCodingConfig,
    *,
    states_NS: NDArray[np.floating[Any]],
    actions_NHA: NDArray[np.floating[Any]],
    mask_NH: NDArray[np.bool_],
) -> dict[str, Any]:
    """Statistics of a training set as coded: ``{"schema", "samples", "coding", "state", "action"}``.

    Only real steps count (``mask_NH``). With per-step statistics every action entry is a list of H
    numbers. Raises StatsError for an empty set or values that are not finite.
    """
    if len(states_NS) == 0:
        raise StatsError("the training set is empty: no statistics can be computed")
    for what, values in (("state", states_NS), ("action", actions_NHA)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise StatsError(f"the {what} of sample {row} is not finite; run `lavla dataset check` on the data")
    relative = actions_NHA.astype(np.float64)
    action_index, state_index = relative_indices(contract, coding)
    relative[..., action_index] -= states_NS[:, None, state_index]
    state = {name: _summary(states_NS[:, i]) for i, name in enumerate(contract.state.names)}
    action: dict[str, Any] = {}
    for i, name in enumerate(contract.action.names):
        if coding.per_step_statistics:
            steps = [_summary(relative[mask_NH[:, h], h, i]) for h in range(contract.chunk_size)]
            action[name] = {key: [step[key] for step in steps] for key in steps[0]}
        else:
            action[name] = _summary(relative[..., i][mask_NH])
    return {
        "schema": 1,
        "samples": len(states_NS),
        "coding": {"relative_actions": coding.relative_actions, "per_step_statistics": coding.per_step_statistics},
        "state": state,
        "action": action,
    }


def load_stats(path: Path) -> dict[str, Any]:
    """Read stats.json. Raises StatsError naming the file when it is not a JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StatsError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise StatsError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def _summary(values: NDArray[np.floating[Any]]) -> dict[str, float]:
    if values.size == 0:
        # A step beyond the longest episode: no sample has it, so any range does.
        return {"min": 0.0, "max": 0.0, "mean": 0.0, "std": 0.0, "q01": 0.0, "q99": 0.0}
    v = values.astype(np.float64)
    q01, q99 = np.quantile(v, [0.01, 0.99])
    return {
        "min": float(v.min()),
        "max": float(v.max()),
        "mean": float(v.mean()),
        "std": float(v.std()),
        "q01": float(q01),
        "q99": float(q99),
    }


def range_of(stats: Mapping[str, Any], section: str, names: Sequence[str], keys: tuple[str, str]) -> Range:
    """(n,) bounds of these names, equal for all steps of a chunk. Raises StatsError for a missing or unusable entry."""
    rows = [_bounds(stats, section, name, keys, 1) for name in names]
    return Range(*(np.array([np.ravel(row[i])[0] for row in rows]) for i in (0, 1)))


def _bounds(
    stats: Mapping[str, Any], section: str, name: str, keys: tuple[str, str], steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    entry = stats.get(section, {}).get(name) if isinstance(stats.get(section), Mapping) else None
    if not isinstance(entry, Mapping) or any(key not in entry for key in keys):
        raise StatsError(f"statistics of {section}.{name} lack {' or '.join(keys)}")
    low, high = (np.asarray(entry[key], dtype=np.float64) for key in keys)
    for key, value in zip(keys, (low, high), strict=True):
        if value.size not in (1, steps) or not np.isfinite(value).all():
            raise StatsError(
                f"statistics {section}.{name}.{key}: expected 1 or {steps} finite numbers, found {value.size}"
            )
    if (high < low).any():
        raise StatsError(f"statistics of {section}.{name}: {keys[1]} is below {keys[0]}")
    return low, high
