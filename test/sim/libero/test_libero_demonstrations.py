"""LIBERO's demonstrations, acted again: from their own first state, without pauses, and only as good as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sim_bridges.episode import ExpertActor, Observer, run_episode
from sim_bridges.suites import load_suite, make_plans
from sim_bridges.world import Environment, EpisodePlan, HasDisturbance, SuiteError
from sim_bridges.worlds.libero.demonstrations import read_demonstrations, without_pauses
from sim_bridges.worlds.libero.initial_states import read_initial_states
from sim_bridges.worlds.libero.suite import LiberoSuite
from sim_bridges.worlds.libero.tasks import LiberoError, find_task

SUITE, TASK, STATE, SEED = "libero_object", 1, 3, 7


def write(file: Path, demonstrations: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
    """In LIBERO's layout, as far as it is read: the states (L, n) and actions (L, 7) of each."""
    with h5py.File(file, "w") as opened:
        for number, (states_LN, actions_LA) in enumerate(demonstrations):
            group = opened.create_group(f"data/demo_{number}")
            group["states"], group["actions"] = states_LN, actions_LA


def with_pauses(actions_LA: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """The same, with a pause of two actions before each ``every``-th, as a person makes them."""
    made = []
    for number, action in enumerate(actions_LA):
        if number and number % every == 0:
            still = np.array([0.0] * 6 + [actions_LA[number - 1][-1]])
            made += [still, still + np.array([5e-5] + [0.0] * 6)]
        made.append(action)
    return np.array(made)


def test_pauses_are_left_out_and_what_moves_the_gripper_is_kept() -> None:
    still_open, still_closed = [0.0] * 6 + [-1.0], [0.0] * 6 + [1.0]
    moving, slow = [0.3, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], [1e-4, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
    actions_LA = np.array([still_open, moving, still_open, slow, still_closed, still_closed, still_open])
    assert np.array_equal(without_pauses(actions_LA), np.array([moving, slow, still_closed, still_open]))
    assert without_pauses(np.array([still_open])).shape == (0, 7)


def test_files_that_are_no_demonstrations_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("libero", reason="LIBERO is not installed")
    read_demonstrations.cache_clear()
    task = find_task(SUITE, TASK)
    file = tmp_path / f"{task.name}_demo.hdf5"
    with pytest.raises(LiberoError, match=f"one file {file.name}.*none"):
        read_demonstrations(tmp_path, task)
    file.write_bytes(b"no HDF5")
    with pytest.raises(LiberoError, match="holds no demonstrations"):
        read_demonstrations(tmp_path, task)
    write(file, [(np.zeros((3, 5)), np.zeros((3, 6)))])
    with pytest.raises(LiberoError, match=r"demo_0 has .*expected .* \(L, 7\)"):
        read_demonstrations(tmp_path, task)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / file.name).write_bytes(b"")
    with pytest.raises(LiberoError, match="2: "):
        read_demonstrations(tmp_path, task)


class Commands(Observer):
    """The commands of an episode."""

    def __init__(self) -> None:
        self.actions: list[NDArray[np.float64]] = []

    def stepped(self, stamp_ns: int, action_A: NDArray[np.float64] | None) -> None:
        assert action_A is not None
        self.actions.append(action_A)


def act(environment: Environment, plan: EpisodePlan, suite: Any) -> tuple[Any, NDArray[np.float64]]:
    seen = Commands()
    actor = ExpertActor(environment.expert(), gives_up=True)
    return run_episode(environment, actor, plan, contract=suite.contract, observer=seen), np.array(seen.actions)


@pytest.mark.sim
def test_a_demonstration_is_repeated_without_its_pauses(libero_assets: str, tmp_path: Path) -> None:
    read_demonstrations.cache_clear()
    plain = load_suite(SUITE, {"assets": libero_assets})
    task = plain.tasks[TASK]
    (plan,) = make_plans({task: [plain.plan(task, STATE, SEED)]}, max_steps=280)
    environment = plain.environment(task, images=False)
    shown, actions_LA = act(environment, plan, plain)
    environment.close()
    assert shown.success

    states_N = read_initial_states(find_task(SUITE, TASK).initial_states_file)[STATE]
    states_LN = np.stack([states_N, np.zeros_like(states_N)])  # those after the first are not used
    paused = with_pauses(actions_LA, every=9)
    assert len(paused) > len(actions_LA) + 10
    write(tmp_path / f"{task}_demo.hdf5", [(states_LN, paused[:-20]), (states_LN, paused)])

    suite = load_suite(SUITE, {"assets": libero_assets, "demonstrations": str(tmp_path)})
    assert isinstance(suite, LiberoSuite)
    with pytest.raises(SuiteError, match="a task has 2, 0 to 1"):
        suite.plan(task, 2, SEED)
    failing, whole = make_plans({task: [suite.plan(task, trial, SEED) for trial in (0, 1)]}, max_steps=280)
    environment = suite.environment(task, images=False)
    failed, _ = act(environment, failing, suite)
    repeated, again_LA = act(environment, whole, suite)
    assert isinstance(environment, HasDisturbance)
    with pytest.raises(SuiteError, match="--no-disturb"):
        environment.disturbance(whole)
    environment.close()
    assert not failed.success
    assert failed.reason
    assert repeated.success
    assert np.array_equal(again_LA, actions_LA)
    assert repeated.trajectory == shown.trajectory
    assert suite.describe(whole)["demonstration"] == f"{task}_demo.hdf5:demo_1"
