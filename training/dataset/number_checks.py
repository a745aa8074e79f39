"""Do the numbers of a dataset look like those of a robot? States, actions and capture times, without the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, Dimension
from lavla_ros.typing import NS_PER_S
from training.dataset.findings import Findings
from training.dataset.layout import stream_names

FASTEST = {"rad": 10.0, "m": 10.0}
"""No arm moves faster, per second: a step in the data that asks for it is a jump."""
LARGEST = {"rad": 4 * math.pi, "m": 20.0, "fraction": 2.0}
"""No arm's joint or hand is further out than this in its unit."""
_OTHER_UNIT = 15.0
"""Episodes that differ by this factor in all dimensions of a unit are in different units (degrees: 57, mm: 1000)."""
_STUCK_S, _STUCK_STEPS = 1.0, 8
_MOVES = 0.1
"""A dimension moves when it spans this share of what it spans in the whole dataset …"""
_MOVES_LEAST = {"rad": 0.05, "m": 0.01, "fraction": 0.05}
"""… and this much: a joint that is commanded to stay gives way a little."""
_GAP = 1.5
"""Two steps further apart than this many periods have lost one between them."""
_US = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeNumbers:
    """The numbers of one episode of L steps."""

    index: int
    state_LS: NDArray[np.float64]
    action_LA: NDArray[np.float64]
    capture_ns_LK: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dim:
    """What is known of one dimension."""

    name: str
    unit: str = ""
    gripper: bool = False
    low: float = -math.inf
    high: float = math.inf
    jumps: bool = False
    """Neighbouring values may be far apart: grippers, steps of a command, orientations."""


def dims_of(
    contract: Contract | None, names: Mapping[str, Sequence[str] | None], widths: Mapping[str, int]
) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """State and action dimensions: the contract's, or what the dataset says of its own."""
    if contract is None:
        found = []
        for key in ("observation.state", "action"):
            own = names.get(key) or [f"{key}[{i}]" for i in range(widths.get(key, 0))]
            found.append(tuple(Dim(name=n, jumps=True) for n in own))
        return found[0], found[1]
    turning = contract.action.space == "end_effector"  # the same orientation has more than one rotation vector

    def dim(given: Dimension, jumps: bool) -> Dim:
        is_gripper = given.kind == "gripper"
        return Dim(
            name=given.name,
            unit=given.unit,
            gripper=is_gripper,
            low=given.low,
            high=given.high,
            jumps=jumps or is_gripper or (turning and given.unit == "rad"),
        )

    stepwise = contract.step == "command"
    return (
        tuple(dim(d, stepwise) for d in contract.state.fields),
        tuple(dim(d, stepwise or contract.action.mode == "delta") for d in contract.action.dims),
    )


def check_numbers(
    episodes: Sequence[EpisodeNumbers],
    contract: Contract | None,
    state_dims: Sequence[Dim],
    action_dims: Sequence[Dim],
    *,
    fps: float,
    allow_gaps: bool,
    findings: Findings,
) -> None:
    """Add what is wrong with the numbers of these episodes."""
    episodes = [
        e for e in episodes if len(e.state_LS) and np.isfinite(e.state_LS).all() and np.isfinite(e.action_LA).all()
    ]
    if not episodes:
        return
    state = [e.state_LS for e in episodes]
    action = [e.action_LA for e in episodes]
    absolute = contract is not None and contract.action.mode == "absolute"
    for what, parts, dims in (("state", state, state_dims), ("action", action, action_dims)):
        odd = _units(what, episodes, parts, dims, findings)
        _bounds(what, episodes, parts, dims, odd, findings)
        _jumps(what, episodes, parts, dims, fps, odd, findings)
    _constants(episodes, state, action, state_dims, action_dims, absolute, fps, findings)
    if contract is not None:
        for episode in episodes:
            if episode.capture_ns_LK is not None:
                _capture(episode, contract, allow_gaps, findings)


def _units(
    what: str,
    episodes: Sequence[EpisodeNumbers],
    parts: Sequence[NDArray[np.float64]],
    dims: Sequence[Dim],
    findings: Findings,
) -> set[int]:
    """Report episodes in another unit than the contract's or the others'; returns their indices."""
    odd: set[int] = set()
    largest = np.stack([np.abs(part).max(0) for part in parts])  # (episodes, dims)
    typical = np.median(largest, axis=0)
    for unit in sorted({d.unit for d in dims}):
        columns = [i for i, d in enumerate(dims) if d.unit == unit and not d.gripper]
        compared = [i for i in columns if typical[i] > 1e-6]
        for row, episode in enumerate(episodes):
            beyond = [i for i in columns if largest[row, i] > LARGEST.get(unit, math.inf)]
            if beyond:
                name, value = dims[beyond[0]].name, largest[row, beyond[0]]
                guess = {"rad": "degrees?", "m": "millimetres?"}.get(unit, "per cent?")
                findings.error("unit", f"{what} {name!r} reaches {value:.4g} {unit}: {guess}", episode.index)
                odd.add(episode.index)
            elif len(compared) >= 2 and len(episodes) >= 2:
                ratio = float(np.median(largest[row, compared] / typical[compared]))
                if ratio > _OTHER_UNIT or (len(compared) >= 3 and ratio < 1 / (2 * _OTHER_UNIT)):
                    findings.error(
                        "unit",
                        f"{what} is {ratio:.3g} times as large as in the other episodes, in all of "
                        f"{[dims[i].name for i in compared]}: another unit?",
                        episode.index,
                    )
                    odd.add(episode.index)
    return odd


def _bounds(
    what: str,
    episodes: Sequence[EpisodeNumbers],
    parts: Sequence[NDArray[np.float64]],
    dims: Sequence[Dim],
    skipped: set[int],
    findings: Findings,
) -> None:
    """Actions are never beyond the contract's bounds, for the converter takes care; states may be, by a little."""
    low, high = np.array([d.low for d in dims]), np.array([d.high for d in dims])
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    slack = 1e-5 + (0.05 * span if what == "state" else 0.0)
    for episode, part in zip(episodes, parts, strict=True):
        out = (part < low - slack) | (part > high + slack)
        if episode.index in skipped or not out.any():
            continue
        for i in map(int, np.flatnonzero(out.any(0))):
            step = int(np.flatnonzero(out[:, i])[0])
            text = (
                f"{what} {dims[i].name!r} is {part[step, i]:.4g} at step {step} ({int(out[:, i].sum())} of "
                f"{len(part)} steps); the contract has [{low[i]:g}, {high[i]:g}]"
            )
            far = max((low[i] - part[:, i]).max(), (part[:, i] - high[i]).max()) > 0.5 * span[i]
            if what == "action" or far:
                findings.error("range", text, episode.index)
            else:
                findings.warning("range", text, episode.index)


def _jumps(
    what: str,
    episodes: Sequence[EpisodeNumbers],
    parts: Sequence[NDArray[np.float64]],
    dims: Sequence[Dim],
    fps: float,
    skipped: set[int],
    findings: Findings,
) -> None:
    steady = [i for i, d in enumerate(dims) if not d.jumps]
    if not steady:
        return
    whole = np.concatenate(parts)[:, steady]
    span = np.quantile(whole, 0.99, axis=0) - np.quantile(whole, 0.01, axis=0)
    changes = [np.abs(np.diff(part[:, steady], axis=0)) for part in parts]
    usual = np.quantile(np.concatenate(changes), 0.99, axis=0)
    fastest = np.array([FASTEST.get(dims[i].unit, math.inf) for i in steady])
    for episode, part, change in zip(episodes, parts, changes, strict=True):
        if episode.index in skipped or not len(change):
            continue
        seconds = np.full((len(change), 1), 1 / fps)
        if episode.capture_ns_LK is not None:  # a lost step is no jump
            passed = np.diff(episode.capture_ns_LK[:, :1], axis=0) / NS_PER_S
            seconds = np.clip(passed, 1 / fps, 10 / fps)
        too_fast = change / seconds > fastest
        strange = (change > 0.5 * span) & (change > 10 * usual) & (seconds < _GAP / fps) & ~too_fast & (span > 0)
        for mask, add in ((too_fast, findings.error), (strange, findings.warning)):
            for column in np.flatnonzero(mask.any(0)):
                step = int(np.flatnonzero(mask[:, column])[0])
                dim = dims[steady[column]]
                before, after = part[step, steady[column]], part[step + 1, steady[column]]
                add(
                    "jump",
                    f"{what} {dim.name!r} jumps by {after - before:.4g} {dim.unit} after step {step}, from "
                    f"{before:.4g} to {after:.4g} ({int(mask[:, column].sum())} jumps)",
                    episode.index,
                )


def _constants(
    episodes: Sequence[EpisodeNumbers],
    state: Sequence[NDArray[np.float64]],
    action: Sequence[NDArray[np.float64]],
    state_dims: Sequence[Dim],
    action_dims: Sequence[Dim],
    absolute: bool,
    fps: float,
    findings: Findings,
) -> None:
    """Dimensions and states that stand still while what they belong to moves."""
    spans = {"state": np.ptp(np.concatenate(state), axis=0), "action": np.ptp(np.concatenate(action), axis=0)}
    steps = sum(len(part) for part in state)
    pairs = []
    if absolute:
        by_name = {d.name: i for i, d in enumerate(action_dims)}
        pairs = [(i, by_name[d.name]) for i, d in enumerate(state_dims) if d.name in by_name]
    told: set[tuple[str, int]] = set()
    for s, a in pairs:
        for still, moving, i, j, dims in (
            ("state", "action", s, a, state_dims),
            ("action", "state", a, s, action_dims),
        ):
            parts, others = (state, action) if still == "state" else (action, state)
            least = max(_MOVES * float(spans[moving][j]), _MOVES_LEAST.get(dims[i].unit, 0.0))
            stuck = [
                e.index
                for e, x, y in zip(episodes, parts, others, strict=True)
                if len(x) >= _STUCK_STEPS and np.ptp(x[:, i]) == 0 and np.ptp(y[:, j]) > least
            ]
            for index in stuck:
                findings.error(
                    "constant", f"{still} {dims[i].name!r} never changes while the {moving} of this name does", index
                )
            if stuck:
                told.add((still, i))
    if steps >= _STUCK_STEPS:
        for what, dims in (("state", state_dims), ("action", action_dims)):
            names = [d.name for i, d in enumerate(dims) if spans[what][i] == 0 and (what, i) not in told]
            if names:
                findings.warning("constant", f"{what} {names} never changes in all {steps} steps")
    if absolute and pairs:
        _stuck_states(episodes, state, action, pairs, spans["action"], fps, findings)


def _stuck_states(
    episodes: Sequence[EpisodeNumbers],
    state: Sequence[NDArray[np.float64]],
    action: Sequence[NDArray[np.float64]],
    pairs: Sequence[tuple[int, int]],
    span: NDArray[np.float64],
    fps: float,
    findings: Findings,
) -> None:
    """The whole state repeats for a second while the commands go on: its stream was dead."""
    wanted = max(_STUCK_STEPS, round(_STUCK_S * fps))
    columns = [a for _, a in pairs if span[a] > 0]
    for episode, x, y in zip(episodes, state, action, strict=True):
        for first, last in still_runs((np.diff(x, axis=0) == 0).all(1), wanted):
            moved = np.ptp(y[first:last, columns], axis=0) / span[columns]
            if first == 0 and last == len(x) and all(np.ptp(x[:, s]) == 0 for s, _ in pairs):
                break  # told as constant dimensions
            if len(moved) and moved.max() > _MOVES:
                findings.error(
                    "stuck",
                    f"the state stands still in steps {first} to {last - 1} while the actions go on",
                    episode.index,
                )
                break


def still_runs(same: NDArray[np.bool_], wanted: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the runs of at least ``wanted`` steps; ``same[i]``: step i + 1 is like step i."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    return [(int(a), int(b) + 1) for a, b in edges.reshape(-1, 2) if b + 1 - a >= wanted]


def _capture(episode: EpisodeNumbers, contract: Contract, allow_gaps: bool, findings: Findings) -> None:
    captured = episode.capture_ns_LK
    names = stream_names(contract)
    assert captured is not None
    if captured.shape[1] != len(names):
        findings.error("capture", f"capture_ns has {captured.shape[1]} columns; expected {list(names)}", episode.index)
        return
    missing = captured <= 0
    missing[0] &= not (captured[0] == 0).all()  # nominal times of an import begin at 0
    for column in map(int, np.flatnonzero(missing.any(0))):
        findings.error(
            "capture",
            f"capture_ns of {names[column]!r} is {captured[missing[:, column], column][0]} at step "
            f"{int(np.flatnonzero(missing[:, column])[0])} ({int(missing[:, column].sum())} of {len(captured)} steps)",
            episode.index,
        )
    if missing.any():
        return
    reference = captured[:, names.index(contract.alignment.reference)]
    passed = np.diff(reference)
    if (np.diff(captured, axis=0) < 0).any() or (passed <= 0).any():
        findings.error("capture", "capture times run backwards or stand still", episode.index)
        return
    if contract.step == "period" and len(passed):
        wide = np.flatnonzero(passed > _GAP * contract.dt_ns)
        if len(wide):
            text = (
                f"{len(wide)} of {len(captured) - 1} steps are further apart than {_GAP} periods; the first after step "
                f"{wide[0]}: {passed[wide[0]] / 1e6:.0f} ms instead of {contract.dt_ns / 1e6:.0f} ms"
            )
            if not allow_gaps:
                findings.error("gap", text, episode.index)
        typical = float(np.median(passed)) / contract.dt_ns
        if not 0.9 < typical < 1.1:
            findings.error(
                "rate",
                f"steps are {typical * contract.dt_ns / 1e6:.1f} ms apart by their capture times; the contract has "
                f"{contract.dt_ns / 1e6:.1f} ms",
                episode.index,
            )
    alignment = contract.alignment
    for column, name in enumerate(names):
        late = reference - captured[:, column]  # ns by which the stream is older than the step
        is_state = name == "state"
        tolerance_s = alignment.state_tolerance_s if is_state else alignment.camera_tolerance_s
        bad = (late > tolerance_s * NS_PER_S + _US) | (late < (-_US if is_state else -tolerance_s * NS_PER_S - _US))
        if bad.any():
            worst = float(late[np.abs(late).argmax()]) / 1e6
            allowed = f"0 to {tolerance_s * 1e3:.0f} ms older" if is_state else f"within {tolerance_s * 1e3:.0f} ms"
            findings.error(
                "lag",
                f"{name!r} is up to {abs(worst):.0f} ms {'older' if worst > 0 else 'newer'} than its step "
                f"({int(bad.sum())} of {len(captured)} steps); the contract has {allowed}",
                episode.index,
            )


def moving_speed(
    camera: str, episode: EpisodeNumbers, dims: Sequence[Dim], spans: NDArray[Any]
) -> NDArray[np.float64] | None:
    """(L - 1,) how fast the state changes, each dimension in shares of its span; None if nothing ever moves.

    A camera whose name begins as dimensions do (``left_wrist``, ``left_joint_1``) is judged by these.
    """
    side = camera.split("_")[0]
    columns = [i for i, d in enumerate(dims) if d.name.split("_")[0] == side] or list(range(len(dims)))
    columns = [i for i in columns if spans[i] > 0]
    if not columns or len(episode.state_LS) < 2:
        return None
    return np.asarray(np.abs(np.diff(episode.state_LS[:, columns], axis=0) / spans[columns]).max(1))
