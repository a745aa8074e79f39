"""The four functions that RoboTwin's evaluation script looks for in a policy's package.

Linked into a checkout as ``policy/lavla``, with lavla_ros installed in RoboTwin's environment, its own script runs a
checkpoint of ours: ``python script/eval_policy.py --config policy/lavla/deploy_policy.yml --overrides --task_name … ``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavla_ros.contract import Contract, Observation, load_contract, require_same_contract
from lavla_ros.observation.images import prepare_image
from lavla_ros.policy.policy import Policy, load_policy
from sim_bridges.worlds.robotwin.environment import CAMERAS, JOINTS, RobotwinError

_CONTRACT: Contract = load_contract("robotwin_aloha")


@dataclass(slots=True)
class Model:
    """A checkpoint, and how much of a chunk is executed."""

    policy: Policy
    replan_steps: int


def get_model(usr_args: Mapping[str, Any]) -> Model:
    """Load the checkpoint of deploy_policy.yml, with whatever the command line overrides.

    Raises RobotwinError for a missing or wrong setting, ContractError for a policy of another robot.
    """
    checkpoint, replan_steps = usr_args.get("checkpoint"), usr_args.get("replan_steps", _CONTRACT.chunk_size)
    if not checkpoint:
        raise RobotwinError("checkpoint is not set; give --checkpoint DIRECTORY after --overrides")
    if not isinstance(replan_steps, int) or not 1 <= replan_steps <= _CONTRACT.chunk_size:
        raise RobotwinError(f"replan_steps is {replan_steps!r}; expected 1 to {_CONTRACT.chunk_size}, a chunk's length")
    policy = load_policy(str(checkpoint), device=str(usr_args.get("device", "cpu")))
    require_same_contract(
        _CONTRACT, policy.contract, ours_from="RoboTwin (robotwin_aloha)", theirs_from=f"policy {checkpoint}"
    )
    return Model(policy=policy, replan_steps=replan_steps)


def encode_obs(observation: Mapping[str, Any], instruction: str = "") -> Observation:
    """RoboTwin's observation as the policy's. Raises RobotwinError for joints of another robot."""
    state = np.asarray(observation["joint_action"]["vector"], np.float32)
    if state.shape != (len(JOINTS),):
        raise RobotwinError(f"joint_action.vector has shape {state.shape}; expected ({len(JOINTS)},)")
    images = {
        spec.name: np.ascontiguousarray(
            prepare_image(np.asarray(observation["observation"][CAMERAS[spec.name]]["rgb"]), spec)
        )
        for spec in _CONTRACT.cameras
    }
    return Observation(stamp_ns=0, images=images, state=state, instruction=instruction)


def eval(TASK_ENV: Any, model: Model, observation: Mapping[str, Any]) -> None:  # RoboTwin's names
    """Infer once and execute the commands of the chunk, until the goal or the step limit is reached."""
    actions_HA = model.policy.predict(encode_obs(observation, TASK_ENV.get_instruction() or "")).actions_HA
    for action in actions_HA[: model.replan_steps]:
        TASK_ENV.take_action(action)
        if TASK_ENV.eval_success or TASK_ENV.take_action_cnt >= TASK_ENV.step_lim:
            return
        if getattr(TASK_ENV, "eval_video_path", None) is not None:
            TASK_ENV.get_obs()  # RoboTwin's video shows the newest


def reset_model(model: Model) -> None:
    """An episode begins."""
    model.policy.reset()
