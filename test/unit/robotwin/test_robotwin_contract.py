"""Steps that are commands, and the recipes of the paper's RoboTwin policies."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lavla_ros.config import read_config
from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.observation.pipeline import Thinner
from lavla_ros.policy.inference import InferenceWorker
from lavla_ros.resources import config_path
from sim_bridges.worlds.robotwin.task_sets import PAPER_4, PAPER_10
from training.config import TrainConfig

MS = 1_000_000


def test_only_contracts_whose_steps_are_commands_say_so() -> None:
    commands, periods = load_contract("robotwin_aloha"), load_contract("libero")
    assert commands.step == "command" and commands.to_dict()["step"] == "command"
    assert periods.step == "period" and "step" not in periods.to_dict()  # their hash is what it was
    for contract in (commands, periods):
        assert Contract.from_dict(contract.to_dict()) == contract
    assert replace(commands, step="period").hash != commands.hash
    with pytest.raises(ValueError, match="step is 'sometimes'"):
        Contract.from_dict({**periods.to_dict(), "step": "sometimes"})


def test_without_a_period_every_frame_is_a_step() -> None:
    thinner = Thinner(0)
    assert all(thinner.accept(stamp * MS) for stamp in (0, 4, 8, 300, 304, 2000))


def test_every_observation_is_answered_where_steps_are_commands() -> None:
    contract = load_contract("robotwin_aloha")
    answered: list[int] = []
    done = threading.Semaphore(0)

    class Echo:
        contract = load_contract("robotwin_aloha")

        def reset(self) -> None: ...

        def predict(self, observation: Observation) -> ActionChunk:
            actions = np.tile(observation.state.astype(float), (25, 1))
            names = contract.action.names
            return ActionChunk(stamp_ns=observation.stamp_ns, dt_ns=contract.dt_ns, actions_HA=actions, names=names)

    def on_chunk(chunk: ActionChunk, *_: object) -> None:
        answered.append(chunk.stamp_ns // MS)
        done.release()

    clock = SimpleNamespace(now_ns=0)
    worker = InferenceWorker(Echo(), on_chunk, lambda error: None, replan_steps=25, now_ns=lambda: clock.now_ns)
    for stamp_ms in (0, 4, 400):  # 25 contract periods would be 1667 ms
        clock.now_ns = stamp_ms * MS
        worker.offer(Observation(stamp_ns=stamp_ms * MS, images={}, state=np.zeros(14, np.float32), instruction="hold"))
        assert done.acquire(timeout=20)
    worker.stop()
    assert answered == [0, 4, 400]


def recipe(name: str) -> TrainConfig:
    return read_config(TrainConfig, config_path(f"training/{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "steps", "tasks"),
    [("robotwin_4", 30_000, PAPER_4), ("robotwin_10", 60_000, PAPER_10), ("robotwin_single", 8_000, ("move_can_pot",))],
)
def test_the_papers_robotwin_policies(name: str, steps: int, tasks: tuple[str, ...]) -> None:
    config, base = recipe(name), recipe("robotwin")
    assert config.steps == steps
    assert tuple(part.path.name for part in config.data.parts) == tasks
    # and in nothing else are they different from one another
    same = {"steps": base.steps, "output": base.output}
    data = replace(config.data, dataset=base.data.dataset, mixture=())
    assert replace(config, data=data, **same) == base
