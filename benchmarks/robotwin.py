"""Speed of RoboTwin's stand-in: physics, pictures, memory, and lock-step over topics against in process.

Lock-step is an episode in which a commander answers every observation at once: a chunk of commands along a smooth way,
executed to their ends. The same commands run in process, and through the node with the commander on the other side of
its topics; both must take the same physics steps. It is timed as the protocol has it, with pictures for every chunk of
25 commands, and with pictures for every command, the most that topics can cost.

``lavla bench robotwin --out FILE.json``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import load_contract
from sim_bridges.evaluation.robotwin import CHUNK_STEPS
from sim_bridges.robotwin.environment import RobotwinEnvironment
from sim_bridges.robotwin.sources import open_source

SEED = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The episode that is timed."""

    task: str = "stack_two_blocks"
    commands: int = 50
    replan_steps: int = CHUNK_STEPS
    """Commands from one observation to the next."""

    def actions(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """(commands, 14) around the home pose (14,): both arms sway, grippers open and close."""
        phase = np.linspace(0.0, 4 * np.pi, self.commands)
        swayed = np.tile(start, (self.commands, 1))
        swayed[:, [0, 7]] += 0.15 * np.sin(phase)[:, None]
        swayed[:, [6, 13]] = 0.5 + 0.5 * np.cos(phase)[:, None]
        return swayed


def run(case: Case | None = None, repeats: int = 3) -> dict[str, Any]:
    """Every figure in a process of its own; lock-step in turn, so often, of which the fastest counts."""
    case = case or Case()
    figures = {name: _in_own_process(name, case) for name in ("physics", "pictures")}
    return {
        "benchmark": "robotwin",
        "cores": os.cpu_count(),
        "task": case.task,
        "commands": case.commands,
        "repeats": repeats,
        "physics_steps_per_s": figures["physics"]["per_s"],
        "observations_per_s": figures["pictures"]["per_s"],
        "first_observation_s": figures["pictures"]["first_s"],
        "memory_mb": figures["pictures"]["memory_mb"],
        "lockstep": compare(case, repeats),
        "lockstep_picture_for_every_command": compare(replace(case, replan_steps=1), repeats),
        "goal": {"lockstep": {"topics_overhead": 0.10, "equal_physics": True}},
    }


def compare(case: Case, repeats: int) -> dict[str, Any]:
    """Commands per second in process and over topics, in turn."""
    runs = [(_in_own_process("lockstep", case), over_topics(case)) for _ in range(repeats)]
    in_process, topics = (min(same, key=lambda timed: timed["wall_s"]) for same in zip(*runs, strict=True))
    step_s, topics_s = in_process["wall_s"] / case.commands, topics["wall_s"] / case.commands
    return {
        "replan_steps": case.replan_steps,
        "physics_steps": in_process["physics_steps"],
        "in_process_hz": 1.0 / step_s,
        "topics_hz": 1.0 / topics_s,
        "topics_overhead": topics_s / step_s - 1.0,
        "equal_physics": topics["physics_steps"] == in_process["physics_steps"],
    }


def physics(case: Case) -> dict[str, float]:
    """The episode without pictures: both arms move. At rest a step costs next to nothing."""
    environment = _made(case)
    actions = case.actions(environment.commanded())
    began = time.perf_counter()
    for action in actions:
        environment.step(action)
    return {"per_s": environment.physics_steps / (time.perf_counter() - began)}


def pictures(case: Case, count: int = 30) -> dict[str, float]:
    """Observations of three cameras, and what the process has needed in memory."""
    environment = _made(case)
    began = time.perf_counter()
    environment.observe()  # compiles shaders
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(count):
        environment.observe()
    per_s = count / (time.perf_counter() - began)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"per_s": per_s, "first_s": first_s, "memory_mb": memory_mb}


def lockstep(case: Case) -> dict[str, float]:
    """The episode in this process."""
    environment = _made(case)
    actions = case.actions(environment.commanded())
    environment.view()  # where the timing over topics begins, too
    began = time.perf_counter()
    for step, action in enumerate(actions):
        if step and step % case.replan_steps == 0:
            environment.view()
        environment.step(action)
    environment.view()
    return {"wall_s": time.perf_counter() - began, "physics_steps": environment.physics_steps}


def _made(case: Case) -> RobotwinEnvironment:
    environment = open_source("standin").environment(case.task, load_contract("robotwin_aloha"))
    environment.reset(SEED)
    return environment


def _in_own_process(name: str, case: Case) -> dict[str, float]:
    return _answer([name, json.dumps(asdict(case))], dict(os.environ))


def _answer(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.robotwin", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


# Over topics: the node in a process of its own, the commander in another one.


def over_topics(case: Case) -> dict[str, float]:
    """The same between the first and the last pictures of the node's episode."""
    with free_domains(1) as ((domain,), _), tempfile.TemporaryDirectory(prefix="lavla-bench-") as text:
        environment = {**ros_environment(), "ROS_DOMAIN_ID": str(domain)}
        folder = Path(text)
        listed = {
            **_list_head(),
            "tasks": {case.task: [{"seed": SEED, "instruction": "sway"}]},
        }
        (folder / "seeds.json").write_text(json.dumps(listed), encoding="utf-8")
        parameters = {
            "task": case.task,
            "seed": SEED,
            "seeds": str(folder / "seeds.json"),
            "max_steps": case.commands,
            "episodes": 1,
            "replan_steps": case.replan_steps,
            "timeout_s": 60.0,
        }
        file = folder / "robotwin.yaml"
        file.write_text(yaml.safe_dump({"robotwin": {"ros__parameters": parameters}}), encoding="utf-8")
        node = [sys.executable, "-m", "sim_bridges.robotwin.robotwin_node", "--ros-args", "--params-file", str(file)]
        with (folder / "log").open("w", encoding="utf-8") as log:
            bridge = subprocess.Popen(node, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                return _answer(["command", json.dumps(asdict(case))], environment)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\nthe node said: {(folder / 'log').read_text(encoding='utf-8')}") from None
            finally:
                bridge.terminate()
                bridge.wait(60.0)


def _list_head() -> dict[str, Any]:
    made = open_source("standin").provenance()
    return {"schema": 1, "source": made.source, "hash": made.hash, "instructions": "unseen"}


def command(case: Case) -> dict[str, float]:
    """Answer every set of pictures with the commands that are due."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from lavla_ros.contract import ActionChunk
    from lavla_ros.ros.lifecycle import stamp_to_ns
    from lavla_ros.ros.messages import chunk_to_trajectory
    from sim_bridges.robotwin.interface import PHYSICS_STEP_NS

    contract = load_contract("robotwin_aloha")
    rclpy.init()
    node = rclpy.create_node("commander")
    publisher = node.create_publisher(JointTrajectory, "/action_chunk", 1)
    seen: dict[int, int] = {}
    stamps: list[int] = []
    times: list[float] = []
    actions: list[Any] = []

    def on_state(message: Any) -> None:
        if not actions:
            actions.append(case.actions(np.array(message.position)))

    def on_picture(message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        seen[stamp_ns] = seen.get(stamp_ns, 0) + 1
        if seen[stamp_ns] < len(contract.cameras) or not actions:
            return
        step = len(times) * case.replan_steps
        times.append(time.perf_counter())
        stamps.append(stamp_ns)
        if step >= case.commands:
            over.set()
            return
        due = actions[0][step : step + case.replan_steps]
        chunk = ActionChunk(stamp_ns=stamp_ns, dt_ns=contract.dt_ns, actions_HA=due, names=contract.action.names)
        publisher.publish(chunk_to_trajectory(chunk))

    over = threading.Event()
    node.create_subscription(JointState, contract.state.topic, on_state, 200)
    for camera in contract.cameras:
        node.create_subscription(Image, camera.topic, on_picture, 50)
    node.create_subscription(String, contract.instruction_topic, lambda _: None, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + 500.0
    while not over.is_set():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the episode did not end; {len(times)} observations came")
        executor.spin_once(timeout_sec=1.0)
    node.destroy_node()
    rclpy.shutdown()
    return {"wall_s": times[-1] - times[0], "physics_steps": (stamps[-1] - stamps[0]) / PHYSICS_STEP_NS}


if __name__ == "__main__":
    loops = {"physics": physics, "pictures": pictures, "lockstep": lockstep, "command": command}
    print(json.dumps(loops[sys.argv[1]](Case(**json.loads(sys.argv[2])))))
