"""LIBERO's recorded demonstrations, acted again in the simulator.

LIBERO's own files have pictures of 128×128, pauses of the person who steered, and some demonstrations that fail when
they are acted again. Published figures (OpenVLA's, OpenVLA-OFT's, UniVLA's) are of policies that learned from
demonstrations made again: from their first state, after the protocol's waiting steps, without pauses, drawn at 256×256,
and only those that reach the goal. With the option ``demonstrations``, a suite's initial states are those of the
files, and its expert repeats their actions, so that a recording of the suite makes exactly that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sim_bridges.worlds.libero.tasks import LiberoError, LiberoTask

PAUSE = 1e-4
"""Norm of an action's motion below which nothing is commanded (OpenVLA's bound)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstrations:
    """All demonstrations of one task, in the file's order."""

    file: Path
    names: tuple[str, ...]
    """Of the episodes in the file: demo_0, demo_1 …"""
    initial_states: NDArray[np.float64]
    """(N, 1 + nq + nv) time, positions and velocities of the whole simulation."""
    actions: tuple[NDArray[np.float64], ...]
    """Of each, (L, 7) without its pauses; their lengths differ."""


@cache
def read_demonstrations(folder: Path, task: LiberoTask) -> Demonstrations:
    """Those of a task: ``<task>_demo.hdf5`` in the folder or below it.

    Raises LiberoError if there is no such file, or more than one, or if it is not of LIBERO's layout.
    """
    name = f"{task.name}_demo.hdf5"
    files = sorted(folder.rglob(name))
    if len(files) != 1:
        found = f"{len(files)}: {[str(file) for file in files]}" if files else "none"
        raise LiberoError(
            f"the demonstrations of {task.suite} task {task.index} are one file {name}; {folder} has {found}"
        )
    try:
        with h5py.File(files[0], "r") as opened:
            data = opened["data"]
            names = sorted((n for n in data if re.fullmatch(r"demo_\d+", n)), key=lambda n: int(n.split("_")[1]))
            states = [np.asarray(data[n]["states"][0], np.float64) for n in names]
            actions = [np.asarray(data[n]["actions"], np.float64) for n in names]
    except (OSError, KeyError, ValueError) as error:
        raise LiberoError(f"{files[0]} holds no demonstrations of LIBERO ({type(error).__name__}: {error})") from None
    if not names:
        raise LiberoError(f"{files[0]} has no data/demo_0: it holds no demonstrations of LIBERO")
    for n, state, action_LA in zip(names, states, actions, strict=True):
        if state.shape != states[0].shape or state.ndim != 1 or action_LA.ndim != 2 or action_LA.shape[1] != 7:
            raise LiberoError(
                f"{files[0]}: {n} has states of {state.shape} and actions of {action_LA.shape}; expected "
                f"{states[0].shape} and (L, 7)"
            )
    return Demonstrations(
        file=files[0],
        names=tuple(names),
        initial_states=np.stack(states),
        actions=tuple(without_pauses(action_LA) for action_LA in actions),
    )


def without_pauses(actions_LA: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L', 7) the actions that command a motion, or another gripper than the action kept before."""
    kept: list[NDArray[np.float64]] = []
    for action in actions_LA:
        moves = float(np.linalg.norm(action[:-1])) >= PAUSE
        if moves or (kept and action[-1] != kept[-1][-1]):
            kept.append(action)
    return np.array(kept, np.float64).reshape(-1, actions_LA.shape[1])


class RepeatedActions:
    """An expert that knows one demonstration by heart; it does not look at the scene."""

    def __init__(self, actions_LA: NDArray[np.float64]) -> None:
        self._actions_LA, self._next = actions_LA, 0

    @property
    def done(self) -> bool:
        return self._next >= len(self._actions_LA)

    def act(self) -> NDArray[np.float64]:
        action: NDArray[np.float64] = self._actions_LA[self._next]
        self._next += 1
        return action
