"""Speed of LIBERO: steps per second of the bridge's environment against a loop that draws every step.

The plain loop is what LeRobot's and openpi's evaluations do: ``OffScreenRenderEnv``, both cameras drawn on every step.
The bridge draws where a policy looks, every 8 steps. Both step the same actions, in processes of their own, and their
states are compared at the end. ``topics`` is the same episode through the node, with a commander on the other side of
the topics that answers at once. All are timed in turn, several times, and the medians compared.
``lavla bench libero --out FILE.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
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

from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.environment import ros_environment
from sim_bridges.libero.assets import find_assets
from sim_bridges.libero.environment import RESOLUTION, WAIT_ACTION, WAIT_STEPS, LiberoEnvironment
from sim_bridges.libero.exactness import Case, draw_linear_colours, in_own_process
from sim_bridges.libero.initial_states import read_initial_states
from sim_bridges.libero.package import import_libero
from sim_bridges.libero.tasks import find_task

REPLAN_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One loop over an episode."""

    steps: int
    wall_s: float
    cpu_s: float
    """Of all threads: drawing in software uses several."""
    last_state: list[float]


class _Clock:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def timing(self, steps: int, last_state: list[float]) -> Timing:
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        return Timing(steps=steps, wall_s=wall_s, cpu_s=cpu_s, last_state=last_state)


def run(
    *,
    suite: str = "libero_object",
    task: int = 0,
    steps: int = 160,
    workers: tuple[int, ...] = (1, 2),
    rounds: int = 3,
    assets: str = "",
) -> dict[str, Any]:
    """Steps per second of an episode under way (set-up apart), and whether all ended in the same state."""
    if 1 not in workers:
        raise ValueError(f"the workers to try are {list(workers)}; one alone is what the others are compared with")
    case = Case(suite=suite, task=task, assets=assets, steps=steps, initial_states=(0,), resolution=RESOLUTION)
    plain, topics = [], []
    bridge: dict[int, list[list[Timing]]] = {count: [] for count in workers}
    for _ in range(rounds):
        plain.append(in_own_process(plain_loop, case))
        for count in workers:
            bridge[count].append(_many(case, count))
        topics.append(over_topics(case))
    every = [*plain, *(timing for many in bridge.values() for timings in many for timing in timings)]
    plain_rate = statistics.median(_rate([timing]) for timing in plain)
    bridge_rates = {count: statistics.median(map(_rate, many)) for count, many in bridge.items()}
    step_s, topics_step_s = 1.0 / bridge_rates[1], statistics.median(topics)
    return {
        "benchmark": "libero",
        "cores": os.cpu_count(),
        "suite": suite,
        "task": task,
        "steps": steps,
        "rounds": rounds,
        "replan_steps": REPLAN_STEPS,
        "resolution": RESOLUTION,
        "assets": find_assets(assets).provenance.to_dict(),
        "plain_steps_per_s": plain_rate,
        "plain_cpu_ms_per_step": _cpu_s_per_step(plain) * 1e3,
        "bridge_cpu_ms_per_step": _cpu_s_per_step([many[0] for many in bridge[1]]) * 1e3,
        "bridge_steps_per_s": {str(count): rate for count, rate in bridge_rates.items()},
        "times_plain": bridge_rates[1] / plain_rate,
        "times_plain_per_core": _cpu_s_per_step(plain) / _cpu_s_per_step([many[0] for many in bridge[1]]),
        "equal_states": all(timing.last_state == plain[0].last_state for timing in every),
        "in_process_step_ms": step_s * 1e3,
        "topics_step_ms": topics_step_s * 1e3,
        "topics_overhead": topics_step_s / step_s - 1.0,
        "all": {
            "plain_steps_per_s": [_rate([timing]) for timing in plain],
            "bridge_steps_per_s": {str(count): list(map(_rate, many)) for count, many in bridge.items()},
            "topics_step_ms": [seconds * 1e3 for seconds in topics],
        },
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
    clock = _Clock()
    for action in case.actions:
        env.step(action)
    timing = clock.timing(case.steps, env.get_sim_state().tolist())
    env.close()
    return timing


def bridge_loop(case: Case) -> Timing:
    """The bridge's environment; pictures where a policy would look."""
    environment = LiberoEnvironment(case.suite, case.task, assets=case.assets, resolution=case.resolution)
    environment.reset(case.initial_states[0], case.seed)
    environment.raw_images()  # makes the OpenGL context
    clock = _Clock()
    for step, action in enumerate(case.actions):
        if step % REPLAN_STEPS == 0:
            environment.raw_images()
        environment.state()
        environment.step(action)
    timing = clock.timing(case.steps, environment.states().tolist())
    environment.close()
    return timing


def _rate(timings: list[Timing]) -> float:
    """Steps per second of episodes that ran side by side."""
    return sum(t.steps for t in timings) / max(t.wall_s for t in timings)


def _cpu_s_per_step(timings: list[Timing]) -> float:
    return statistics.median(t.cpu_s / t.steps for t in timings)


def _many(case: Case, workers: int) -> list[Timing]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [f.result() for f in [pool.submit(bridge_loop, case) for _ in range(workers)]]


# Over topics: the node in a process of its own, the commander in this one's child.


def over_topics(case: Case) -> float:
    """Seconds per step between the first and the last observation of an episode of the node."""
    with free_domains(1) as ((domain,), _), tempfile.TemporaryDirectory(prefix="lavla-bench-") as text:
        environment = {**ros_environment(), "ROS_DOMAIN_ID": str(domain)}
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
        file.write_text(yaml.safe_dump({"libero": {"ros__parameters": parameters}}), encoding="utf-8")
        (folder / "case.json").write_text(
            json.dumps({**asdict(case), "initial_states": list(case.initial_states)}), encoding="utf-8"
        )
        command = [sys.executable, "-m", "benchmarks.libero", str(folder)]
        node = [sys.executable, "-m", "sim_bridges.libero.libero_node", "--ros-args", "--params-file", str(file)]
        with (folder / "log").open("w", encoding="utf-8") as log:
            bridge = subprocess.Popen(node, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                answer = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=600, check=False, encoding="utf-8"
                )
            finally:
                bridge.terminate()
                bridge.wait(30.0)
        if answer.returncode:
            raise RuntimeError(
                f"the commander failed: {answer.stderr}\nthe node said: {(folder / 'log').read_text(encoding='utf-8')}"
            )
        return float(answer.stdout.splitlines()[-1])


def command(folder: Path) -> float:
    """Answer every pair of pictures with the actions that are due; seconds per step of the episode."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from lavla_ros.contract import NS_PER_S, ActionChunk, load_contract
    from lavla_ros.ros.lifecycle import stamp_to_ns
    from lavla_ros.ros.messages import chunk_to_trajectory

    data = json.loads((folder / "case.json").read_text(encoding="utf-8"))
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
