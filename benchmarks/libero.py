"""Speed of LIBERO: steps per second of the bridge's environment against a loop that draws every step.

The plain loop is what LeRobot's and openpi's evaluations do: ``OffScreenRenderEnv``, both cameras drawn on every step.
The bridge draws where a policy looks, every 8 steps. Both step the same actions, in processes of their own, and their
states are compared at the end. ``topics`` is the same episode through the node, with a commander on the other side of
the topics that answers at once. ``lavla bench libero --out FILE.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lavla_ros.bringup.environment import ros_environment
from sim_bridges.libero.assets import find_assets
from sim_bridges.libero.environment import RESOLUTION, WAIT_ACTION, WAIT_STEPS, LiberoEnvironment
from sim_bridges.libero.exactness import Case, draw_linear_colours, in_own_process
from sim_bridges.libero.initial_states import read_initial_states
from sim_bridges.libero.package import import_libero
from sim_bridges.libero.tasks import find_task

REPLAN_STEPS = 8
_DOMAIN = "77"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One loop over an episode."""

    steps: int
    wall_s: float
    last_state: list[float]


def run(
    *,
    suite: str = "libero_object",
    task: int = 0,
    steps: int = 160,
    workers: tuple[int, ...] = (1, 2),
    assets: str = "",
) -> dict[str, Any]:
    """Steps per second of an episode under way (set-up apart), and whether all ended in the same state."""
    case = Case(suite=suite, task=task, assets=assets, steps=steps, initial_states=(0,), resolution=RESOLUTION)
    plain = in_own_process(plain_loop, case)
    bridge = {count: _many(case, count) for count in workers}
    one = bridge[workers[0]][0]
    topics = over_topics(case)
    equal = all(t.last_state == plain.last_state for timings in bridge.values() for t in timings)
    plain_rate, step_s = plain.steps / plain.wall_s, one.wall_s / one.steps
    return {
        "benchmark": "libero",
        "cores": os.cpu_count(),
        "suite": suite,
        "task": task,
        "steps": steps,
        "replan_steps": REPLAN_STEPS,
        "resolution": RESOLUTION,
        "assets": find_assets(assets).provenance.to_dict(),
        "plain_steps_per_s": plain_rate,
        "bridge_steps_per_s": {
            str(count): sum(t.steps for t in timings) / max(t.wall_s for t in timings)
            for count, timings in bridge.items()
        },
        "times_plain_per_core": (one.steps / one.wall_s) / plain_rate,
        "equal_states": equal,
        "topics_step_ms": topics * 1e3,
        "in_process_step_ms": step_s * 1e3,
        "topics_overhead": topics / step_s - 1.0,
        "goal": {"times_plain_per_core": 3.0, "topics_overhead": 0.10, "equal_states": True},
    }


def plain_loop(case: Case) -> Timing:
    """LIBERO's own environment; both pictures drawn on every step."""
    task = find_task(case.suite, case.task)
    envs = import_libero(find_assets(case.assets).folder)
    draw_linear_colours()
    env = envs.OffScreenRenderEnv(
        bddl_file_name=str(task.bddl_file), camera_heights=case.resolution, camera_widths=case.resolution
    )
    env.seed(case.seed)
    env.reset()
    env.set_init_state(read_initial_states(task.initial_states_file)[case.initial_states[0]])
    for _ in range(WAIT_STEPS):
        env.step(list(WAIT_ACTION))
    began = time.perf_counter()
    for action in case.actions:
        env.step(action)
    timing = Timing(steps=case.steps, wall_s=time.perf_counter() - began, last_state=env.get_sim_state().tolist())
    env.close()
    return timing


def bridge_loop(case: Case) -> Timing:
    """The bridge's environment; pictures where a policy would look."""
    environment = LiberoEnvironment(case.suite, case.task, assets=case.assets, resolution=case.resolution)
    environment.reset(case.initial_states[0], case.seed)
    environment.observe()  # makes the OpenGL context
    began = time.perf_counter()
    for step, action in enumerate(case.actions):
        environment.observe(images=step % REPLAN_STEPS == 0)
        environment.step(action)
    timing = Timing(steps=case.steps, wall_s=time.perf_counter() - began, last_state=environment.states().tolist())
    environment.close()
    return timing


def _many(case: Case, workers: int) -> list[Timing]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [f.result() for f in [pool.submit(bridge_loop, case) for _ in range(workers)]]


# Over topics: the node in a process of its own, the commander in this one's child.


def over_topics(case: Case) -> float:
    """Seconds per step between the first and the last observation of an episode of the node."""
    environment = {**ros_environment(), "ROS_DOMAIN_ID": _DOMAIN}
    with tempfile.TemporaryDirectory(prefix="lavla-bench-") as text:
        folder = Path(text)
        parameters = {
            "suite": case.suite,
            "task": case.task,
            "seed": case.seed,
            "initial_state": case.initial_states[0],
            "assets": case.assets,
            "max_steps": case.steps,
            "episodes": 1,
            "replan_steps": REPLAN_STEPS,
            "timeout_s": 60.0,
            "resolution": case.resolution,
        }
        file = folder / "libero.yaml"
        file.write_text(yaml.safe_dump({"libero": {"ros__parameters": parameters}}))
        (folder / "case.json").write_text(json.dumps({**asdict(case), "initial_states": list(case.initial_states)}))
        command = [sys.executable, "-m", "benchmarks.libero", str(folder)]
        node = [sys.executable, "-m", "sim_bridges.libero.libero_node", "--ros-args", "--params-file", str(file)]
        with (folder / "log").open("w") as log:
            bridge = subprocess.Popen(node, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                answer = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=600, check=False
                )
            finally:
                bridge.terminate()
                bridge.wait(30.0)
        if answer.returncode:
            raise RuntimeError(f"the commander failed: {answer.stderr}\nthe node said: {(folder / 'log').read_text()}")
        return float(answer.stdout.splitlines()[-1])


def command(folder: Path) -> float:
    """Answer every pair of pictures with the actions that are due; seconds per step of the episode."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from lavla_ros.contract import NS_PER_S, ActionChunk, load_contract
    from lavla_ros.nodes.lifecycle import stamp_to_ns
    from lavla_ros.nodes.messages import chunk_to_trajectory

    data = json.loads((folder / "case.json").read_text())
    case = Case(**{**data, "initial_states": tuple(data["initial_states"])})
    actions = np.concatenate([case.actions, np.zeros((REPLAN_STEPS, 7))])
    contract = load_contract("libero")
    rclpy.init()
    node = rclpy.create_node("commander")
    publisher = node.create_publisher(JointTrajectory, "/action_chunk", 1)
    seen: dict[int, int] = {}
    times: list[float] = []
    over = threading.Event()
    first_ns = 0

    def on_picture(message: Any) -> None:
        nonlocal first_ns
        stamp_ns = stamp_to_ns(message.header.stamp)
        seen[stamp_ns] = seen.get(stamp_ns, 0) + 1
        if seen[stamp_ns] < len(contract.cameras):
            return
        first_ns = first_ns or stamp_ns
        times.append(time.perf_counter())
        step = round((stamp_ns - first_ns) * contract.rate_hz / NS_PER_S)
        if step >= case.steps:
            over.set()
            return
        chunk = ActionChunk(
            stamp_ns=stamp_ns,
            dt_ns=contract.dt_ns,
            actions_HA=actions[step : step + REPLAN_STEPS],
            names=contract.action.names,
        )
        publisher.publish(chunk_to_trajectory(chunk))

    for camera in contract.cameras:
        node.create_subscription(Image, camera.topic, on_picture, 50)
    node.create_subscription(JointState, contract.state.topic, lambda _: None, 200)
    node.create_subscription(String, contract.instruction_topic, lambda _: None, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + 500.0
    while not over.is_set():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the episode did not end; {len(times)} pairs of pictures came")
        executor.spin_once(timeout_sec=1.0)
    node.destroy_node()
    rclpy.shutdown()
    # Both loops draw once at the start of each plan; the node draws once more at the end, which is the last time here.
    return (times[-1] - times[0]) / case.steps


if __name__ == "__main__":
    print(command(Path(sys.argv[1])))
