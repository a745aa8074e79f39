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
"""… and this much."""
_GIVES_WAY = 3.0
"""How many times as much where it is commanded to stay: an object that is gripped, or a soft joint, moves it."""
GAP = 1.5
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """The states, or the actions, of all episodes."""

    what: str
    dims: Sequence[Dim]
    parts: Sequence[NDArray[np.float64]]
    """(L, D) of each episode."""

    @property
    def span(self) -> NDArray[np.float64]:
        """(D,) from the smallest to the largest value."""
        return np.asarray(np.ptp(np.concatenate(self.parts), axis=0))


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
    state = _Side(what="state", dims=state_dims, parts=[e.state_LS for e in episodes])
    action = _Side(what="action", dims=action_dims, parts=[e.action_LA for e in episodes])
    checks = _NumberChecks(episodes, fps, findings)
    for side in (state, action):
        odd = checks.units(side)
        checks.bounds(side, odd)
        checks.jumps(side, odd)
    names = {d.name: i for i, d in enumerate(action_dims)}
    absolute = contract is not None and contract.action.mode == "absolute"
    pairs = [(i, names[d.name]) for i, d in enumerate(state_dims) if d.name in names] if absolute else []
    checks.constants(state, action, pairs)
    if pairs:
        checks.stuck_states(state, action, pairs)
    if contract is not None:
        for episode in episodes:
            if episode.capture_ns_LK is not None:
                _capture(episode, contract, allow_gaps, findings)


def first_and_count(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The first step of ``mask`` that is true, and how many are."""
    return int(np.flatnonzero(mask)[0]), int(mask.sum())


class _NumberChecks:
    def __init__(self, episodes: Sequence[EpisodeNumbers], fps: float, findings: Findings) -> None:
        self._episodes, self._fps, self._findings = episodes, fps, findings

    def units(self, side: _Side) -> set[int]:
        """Report episodes in another unit than the contract's or the others'; returns their indices."""
        odd: set[int] = set()
        dims, error = side.dims, self._findings.error
        largest = np.stack([np.abs(part).max(0) for part in side.parts])  # (episodes, dims)
        typical = np.median(largest, axis=0)
        for unit in sorted({d.unit for d in dims}):
            columns = [i for i, d in enumerate(dims) if d.unit == unit and not d.gripper]
            compared = [i for i in columns if typical[i] > 1e-6]
            for row, episode in enumerate(self._episodes):
                beyond = [i for i in columns if largest[row, i] > LARGEST.get(unit, math.inf)]
                if beyond:
                    name, value = dims[beyond[0]].name, largest[row, beyond[0]]
                    guess = {"rad": "degrees?", "m": "millimetres?"}.get(unit, "per cent?")
                    error("unit", f"{side.what} {name!r} reaches {value:.4g} {unit}: {guess}", episode.index)
                    odd.add(episode.index)
                elif len(compared) >= 2 and len(self._episodes) >= 2:
                    ratio = float(np.median(largest[row, compared] / typical[compared]))
                    if ratio > _OTHER_UNIT or (len(compared) >= 3 and ratio < 1 / (2 * _OTHER_UNIT)):
                        named = [dims[i].name for i in compared]
                        text = f"{side.what} is {ratio:.3g} times as large as in the other episodes, in all of {named}"
                        error("unit", f"{text}: another unit?", episode.index)
                        odd.add(episode.index)
        return odd

    def bounds(self, side: _Side, skipped: set[int]) -> None:
        """Actions are never beyond the contract's bounds, for the converter takes care; states may be, by a little."""
        dims, is_action = side.dims, side.what == "action"
        low, high = np.array([d.low for d in dims]), np.array([d.high for d in dims])
        span = np.where(np.isfinite(high - low), high - low, 0.0)
        slack = 1e-5 + (0.0 if is_action else 0.05 * span)
        for episode, part in zip(self._episodes, side.parts, strict=True):
            out = (part < low - slack) | (part > high + slack)
            if episode.index in skipped or not out.any():
                continue
            for i in map(int, np.flatnonzero(out.any(0))):
                step, count = first_and_count(out[:, i])
                text = (
                    f"{side.what} {dims[i].name!r} is {part[step, i]:.4g} at step {step} ({count} of {len(part)} "
                    f"steps); the contract has [{low[i]:g}, {high[i]:g}]"
                )
                far = max((low[i] - part[:, i]).max(), (part[:, i] - high[i]).max()) > 0.5 * span[i]
                add = self._findings.error if is_action or far else self._findings.warning
                add("range", text, episode.index)

    def jumps(self, side: _Side, skipped: set[int]) -> None:
        steady = [i for i, d in enumerate(side.dims) if not d.jumps]
        if not steady:
            return
        fps, findings = self._fps, self._findings
        low, high = np.quantile(np.concatenate(side.parts)[:, steady], (0.01, 0.99), axis=0)
        span = high - low
        changes = [np.abs(np.diff(part[:, steady], axis=0)) for part in side.parts]
        usual = np.quantile(np.concatenate(changes), 0.99, axis=0)
        fastest = np.array([FASTEST.get(side.dims[i].unit, math.inf) for i in steady])
        for episode, part, change in zip(self._episodes, side.parts, changes, strict=True):
            if episode.index in skipped or not len(change):
                continue
            seconds = np.full((len(change), 1), 1 / fps)
            if episode.capture_ns_LK is not None:  # a lost step is no jump
                passed = np.diff(episode.capture_ns_LK[:, :1], axis=0) / NS_PER_S
                seconds = np.clip(passed, 1 / fps, 10 / fps)
            too_fast = change / seconds > fastest
            strange = (change > 0.5 * span) & (change > 10 * usual) & (seconds < GAP / fps) & ~too_fast & (span > 0)
            for mask, add in ((too_fast, findings.error), (strange, findings.warning)):
                for column in np.flatnonzero(mask.any(0)):
                    step, count = first_and_count(mask[:, column])
                    dim = side.dims[steady[column]]
                    before, after = part[step, steady[column]], part[step + 1, steady[column]]
                    text = (
                        f"{side.what} {dim.name!r} jumps by {after - before:.4g} {dim.unit} after step {step}, from "
                        f"{before:.4g} to {after:.4g} ({count} jumps)"
                    )
                    add("jump", text, episode.index)

    def constants(self, state: _Side, action: _Side, pairs: Sequence[tuple[int, int]]) -> None:
        """Dimensions that stand still; an error if the one of ``pairs`` that belongs to them moves."""
        spans = {side.what: side.span for side in (state, action)}
        steps = sum(len(part) for part in state.parts)
        told: set[tuple[str, int]] = set()
        for s, a in pairs:
            for still, moving, i, j in ((state, action, s, a), (action, state, a, s)):
                least = max(_MOVES * float(spans[moving.what][j]), _MOVES_LEAST.get(still.dims[i].unit, 0.0))
                least *= _GIVES_WAY if still is action else 1.0
                text = f"{still.what} {still.dims[i].name!r} never changes while the {moving.what} of this name does"
                for episode, x, y in zip(self._episodes, still.parts, moving.parts, strict=True):
                    if len(x) >= _STUCK_STEPS and np.ptp(x[:, i]) == 0 and np.ptp(y[:, j]) > least:
                        self._findings.error("constant", text, episode.index)
                        told.add((still.what, i))
        for side in (state, action) if steps >= _STUCK_STEPS else ():
            never = [i for i, span in enumerate(spans[side.what]) if span == 0 and (side.what, i) not in told]
            if never:
                names = [side.dims[i].name for i in never]
                self._findings.warning("constant", f"{side.what} {names} never changes in all {steps} steps")

    def stuck_states(self, state: _Side, action: _Side, pairs: Sequence[tuple[int, int]]) -> None:
        """The whole state repeats for a second while the commands go on: its stream was dead."""
        wanted = max(_STUCK_STEPS, round(_STUCK_S * self._fps))
        span = action.span
        columns = [a for _, a in pairs if span[a] > 0]
        for episode, x, y in zip(self._episodes, state.parts, action.parts, strict=True):
            for first, last in still_runs((np.diff(x, axis=0) == 0).all(1), wanted):
                moved = np.ptp(y[first:last, columns], axis=0) / span[columns]
                if first == 0 and last == len(x) and all(np.ptp(x[:, s]) == 0 for s, _ in pairs):
                    break  # told as constant dimensions
                if len(moved) and moved.max() > _MOVES:
                    text = f"the state stands still in steps {first} to {last - 1} while the actions go on"
                    self._findings.error("stuck", text, episode.index)
                    break


def still_runs(same: NDArray[np.bool_], wanted: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the runs of at least ``wanted`` steps; ``same[i]``: step i + 1 is like step i."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    return [(int(a), int(b) + 1) for a, b in edges.reshape(-1, 2) if b + 1 - a >= wanted]


def lost_steps(stamps_ns: NDArray[np.int64], dt_ns: int) -> str:
    """What is to be said of steps with these capture times that are too far apart; empty if none are."""
    gaps = np.diff(stamps_ns)
    if not (wide := gaps > GAP * dt_ns).any():
        return ""
    first, count = first_and_count(wide)
    return (
        f"{count} of {len(gaps)} steps are further apart than {GAP} periods; the first after step {first}: "
        f"{gaps[first] / 1e6:.0f} ms instead of {dt_ns / 1e6:.0f} ms"
    )


def _capture(episode: EpisodeNumbers, contract: Contract, allow_gaps: bool, findings: Findings) -> None:
    captured = episode.capture_ns_LK
    names = stream_names(contract)
    assert captured is not None

    def wrong(kind: str, text: str) -> None:
        findings.error(kind, text, episode.index)

    if captured.shape[1] != len(names):
        wrong("capture", f"capture_ns has {captured.shape[1]} columns; expected {list(names)}")
        return
    missing = captured <= 0
    missing[0] &= not (captured[0] == 0).all()  # nominal times of an import begin at 0
    for column in map(int, np.flatnonzero(missing.any(0))):
        step, count = first_and_count(missing[:, column])
        where = f"at step {step} ({count} of {len(captured)} steps)"
        wrong("capture", f"capture_ns of {names[column]!r} is {captured[step, column]} {where}")
    if missing.any():
        return
    reference = captured[:, names.index(contract.alignment.reference)]
    passed = np.diff(reference)
    if (np.diff(captured, axis=0) < 0).any() or (passed <= 0).any():
        wrong("capture", "capture times run backwards or stand still")
        return
    if contract.step == "period" and len(passed):
        if not allow_gaps and (text := lost_steps(reference, contract.dt_ns)):
            wrong("gap", text)
        typical = float(np.median(passed)) / contract.dt_ns
        if not 0.9 < typical < 1.1:
            apart = f"steps are {typical * contract.dt_ns / 1e6:.1f} ms apart by their capture times"
            wrong("rate", f"{apart}; the contract has {contract.dt_ns / 1e6:.1f} ms")
    alignment = contract.alignment
    for column, name in enumerate(names):
        late = reference - captured[:, column]  # ns by which the stream is older than the step
        is_state = name == "state"
        tolerance_s = alignment.state_tolerance_s if is_state else alignment.camera_tolerance_s
        bad = (late > tolerance_s * NS_PER_S + _US) | (late < (-_US if is_state else -tolerance_s * NS_PER_S - _US))
        if bad.any():
            worst = float(late[np.abs(late).argmax()]) / 1e6
            allowed = f"0 to {tolerance_s * 1e3:.0f} ms older" if is_state else f"within {tolerance_s * 1e3:.0f} ms"
            wrong(
                "lag",
                f"{name!r} is up to {abs(worst):.0f} ms {'older' if worst > 0 else 'newer'} than its step "
                f"({int(bad.sum())} of {len(captured)} steps); the contract has {allowed}",
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
