"""Speed of a suite: lock-step in process and over topics, what a picture costs, and whole evaluations.

The actor of the timed episode answers at once: with the actions of the suite's expert, a chunk at every replanning
step, as a policy would. The same chunks are executed in process, in several processes side by side, and from the other
side of topics; all must go through the same states. Each runs in a process of its own, in turn, several times, and the
medians are compared. Setting up is not timed. What a suite measures besides, it says itself (``Suite.bench``).

``lavla bench SUITE --out FILE.json``.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import SuiteBench
from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import ActionChunk, Observation
from lavla_ros.errors import FailedError
from sim_bridges.episode import Actor, ExpertActor, run_episode
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.suites import choose_tasks, load_suite, make_plans, protocol_starts
from sim_bridges.world import EpisodePlan, Options, Suite

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The episode that is timed."""

    suite: str
    options: Options = field(default_factory=dict)
    task: str
    steps: int
    """At most; it ends with success too."""
    replan_steps: int
    """Contract steps between two chunks."""
    actions: tuple[tuple[float, ...], ...] = ()
    """(steps, A) that the expert took."""
    domain: int | None = None
    """ROS domain of the one who answers; None: in process."""

    def made(self) -> tuple[Suite, EpisodePlan]:
        suite = load_suite(self.suite, self.options)
        starts = protocol_starts(suite, (self.task,), episodes=1, seed=suite.rules.seed)
        (plan,) = make_plans(starts, max_steps=self.steps)
        return suite, plan

    def chunk(self, number: int, stamp_ns: int, suite: Suite) -> ActionChunk:
        """The ``number``-th of the episode; after the expert's last action that one again."""
        contract = suite.contract
        steps = np.arange(self.replan_steps) + number * self.replan_steps
        due = np.asarray(self.actions, np.float64)[np.minimum(steps, len(self.actions) - 1)]
        return ActionChunk(stamp_ns=stamp_ns, dt_ns=contract.dt_ns, actions_HA=due, names=contract.action.names)


def run(config: SuiteBench) -> dict[str, Any]:
    """Figures of one task. The policy is evaluated as the expert is; without one, that of the suite is, if it has any.

    Raises SuiteError if the suite has no expert for the task.
    """
    rounds, episodes = config.rounds, config.episodes
    loaded = load_suite(config.suite, config.options)
    task = choose_tasks(loaded, (config.task,) if config.task else ())[0]
    case = Case(
        suite=config.suite,
        options=config.options,
        task=task,
        steps=config.steps,
        replan_steps=loaded.rules.replan_steps if config.replan_steps is None else config.replan_steps,
    )
    case = replace(case, actions=tuple(map(tuple, _measured("shown", case)["actions"])))
    extra = getattr(loaded, "bench", None)
    return {
        "benchmark": "suite",
        "cores": os.cpu_count(),
        "suite": config.suite,
        "task": task,
        "rounds": rounds,
        "assets": asdict(loaded.assets()),
        "lockstep": lockstep(case, rounds, config.workers),
        "lockstep_picture_for_every_step": lockstep(
            replace(case, replan_steps=1, steps=min(config.steps, 50)), rounds, (1,)
        ),
        "pictures": _measured("pictures", case),
        "evaluations": _evaluations(case, config.policy or getattr(loaded, "policy", ""), episodes),
        "own": {} if extra is None else extra(task, np.asarray(case.actions, np.float64)),
        "goal": {"lockstep": {"topics_overhead": 0.10, "equal_states": True}},
    }


def lockstep(case: Case, rounds: int, workers: tuple[int, ...]) -> dict[str, Any]:
    """Steps per second in process, by how many do it side by side, and over topics."""
    in_process: dict[int, list[list[dict[str, Any]]]] = {count: [] for count in workers}
    topics = []
    for _ in range(rounds):
        for count in workers:
            with ThreadPoolExecutor(count) as pool:
                in_process[count].append(list(pool.map(lambda _: _measured("timed", case), range(count))))
        topics.append(_over_topics(case))
    alone = [timings[0] for timings in in_process[1]]
    rates = {count: statistics.median(map(_rate, many)) for count, many in in_process.items()}
    step_s, topics_s = 1.0 / rates[1], 1.0 / statistics.median(_rate([timing]) for timing in topics)
    every = [*topics, *(timing for many in in_process.values() for timings in many for timing in timings)]
    return {
        "steps": alone[0]["steps"],
        "replan_steps": case.replan_steps,
        "steps_per_s": {str(count): rate for count, rate in rates.items()},
        "cpu_ms_per_step": statistics.median(t["cpu_s"] / t["steps"] for t in alone) * 1e3,
        "in_process_step_ms": step_s * 1e3,
        "topics_step_ms": topics_s * 1e3,
        "topics_overhead": topics_s / step_s - 1.0,
        "equal_states": len({timing["trajectory"] for timing in every}) == 1,
        "all": {"in_process": {str(count): many for count, many in in_process.items()}, "topics": topics},
    }


def _evaluations(case: Case, policy: str, episodes: int) -> dict[str, Any]:
    """Multiples of real time of one worker, with a policy and with the expert, which needs no pictures."""
    figures: dict[str, Any] = {}
    for who in filter(None, (policy, "expert")):
        config = EvaluationConfig(
            suite=case.suite, options=case.options, tasks=(case.task,), policy=who, episodes=episodes, videos=0
        )
        results = evaluate(config)
        if errors := results.errors:
            raise FailedError(f"{len(errors)} of {episodes} episodes ended in error; the first: {errors[0].error}")
        figures["expert" if who == "expert" else "policy"] = {
            "real_time_factor": results.real_time_factor,
            "simulated_s": results.simulated_s,
            "wall_s": results.wall_s,
            "successes": results.tally.successes,
            "episodes": episodes,
        }
    return figures


def _rate(timings: list[dict[str, Any]]) -> float:
    """Steps per second of episodes that ran side by side."""
    return float(sum(t["steps"] for t in timings) / max(t["wall_s"] for t in timings))


# In processes of their own.


class _Timed:
    """Times what an actor of the episode loop does, from its first chunk to the episode's end."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self.every, self.needs_images = actor, actor.every, actor.needs_images
        self.done = False
        self.actions: list[list[float]] = []
        self._began: tuple[float, float] | None = None
        self.wall_s = self.cpu_s = 0.0

    def reset(self, plan: EpisodePlan) -> None:
        self._actor.reset(plan)

    def chunk(self, observation: Observation) -> ActionChunk:
        chunk = self._actor.chunk(observation)
        # Afterwards: what makes a first picture, and finds the other side of topics, is not what a step costs.
        self._began = self._began or (time.perf_counter(), time.process_time())
        self.actions.append(np.asarray(chunk.actions_HA[0], np.float64).tolist())
        return chunk

    def finish(self, *, success: bool) -> None:
        assert self._began is not None
        self.wall_s, self.cpu_s = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self._actor.finish(success=success)

    def close(self) -> None:
        self._actor.close()


class _Answers(Actor):
    """Answers in this process, with the actions that are due."""

    needs_images = True
    done = False

    def __init__(self, case: Case, suite: Suite) -> None:
        self._case, self._suite, self.every = case, suite, case.replan_steps
        self._asked = 0

    def reset(self, plan: EpisodePlan) -> None:
        self._asked = 0

    def chunk(self, observation: Observation) -> ActionChunk:
        self._asked += 1
        return self._case.chunk(self._asked - 1, observation.stamp_ns, self._suite)


def _episode(case: Case, actor: Actor | None) -> tuple[_Timed, dict[str, Any]]:
    """One episode of the actor, of the expert for None."""
    suite, plan = case.made()
    with closing(suite.environment(case.task, images=actor is not None)) as environment:
        timed = _Timed(actor or ExpertActor(environment.expert()))
        episode = run_episode(environment, timed, plan, contract=suite.contract)
    timed.close()
    return timed, {"steps": episode.steps, "trajectory": episode.trajectory}


def shown(case: Case) -> dict[str, Any]:
    """What the expert does."""
    timed, about = _episode(case, None)
    return {**about, "actions": timed.actions}


def timed(case: Case) -> dict[str, Any]:
    """The episode in process, or with who answers in another ROS domain."""
    suite, _ = case.made()
    actor: Actor = _Answers(case, suite)
    if case.domain is not None:
        from sim_bridges.evaluation.topic_policy_node import TopicActor

        actor = TopicActor(suite.contract, domain=case.domain, timeout_s=60.0, every=case.replan_steps)
    clock, about = _episode(case, actor)
    return {**about, "wall_s": clock.wall_s, "cpu_s": clock.cpu_s}


def pictures(case: Case, count: int = 30) -> dict[str, Any]:
    """Observations with all cameras, and what the process has needed in memory."""
    suite, plan = case.made()
    with closing(suite.environment(case.task, images=True)) as environment:
        environment.reset(plan)
        began = time.perf_counter()
        environment.observe(images=True)  # makes a context, compiles shaders
        first_s = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(count):
            environment.observe(images=True)
        per_s = count / (time.perf_counter() - began)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"observations_per_s": per_s, "first_observation_s": first_s, "memory_mb": memory_mb}


def answer(case: Case) -> dict[str, Any]:
    """The other side of the topics, until it is ended: a chunk for every observation of the episode."""
    import rclpy
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from lavla_ros.ros.lifecycle import stamp_to_ns
    from lavla_ros.ros.messages import chunk_to_trajectory
    from lavla_ros.topics import ACTION_CHUNK

    suite, _ = case.made()
    contract = suite.contract
    rclpy.init()
    node = rclpy.create_node("commander")
    publisher = node.create_publisher(JointTrajectory, ACTION_CHUNK, 1)
    seen: dict[int, int] = {}

    def on_picture(message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        seen[stamp_ns] = seen.get(stamp_ns, 0) + 1
        if seen[stamp_ns] == len(contract.cameras):
            publisher.publish(chunk_to_trajectory(case.chunk(len(seen) - 1, stamp_ns, suite)))

    for camera in contract.cameras:
        node.create_subscription(Image, contract.wire(camera.observation_topic), on_picture, 50)
    node.create_subscription(JointState, contract.wire(contract.state.topic), lambda _: None, 200)
    node.create_subscription(String, contract.wire(contract.instruction_topic), lambda _: None, 10)
    rclpy.spin(node)
    return {}


def _command(name: str, folder: Path, case: Case) -> list[str]:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(asdict(case)), encoding="utf-8")
    return [sys.executable, "-m", "benchmarks.suite", name, str(file)]


def _measured(name: str, case: Case, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the function of this name returns in a process of its own. Raises RuntimeError with what it said."""
    with tempfile.TemporaryDirectory(prefix="lavla-bench-") as folder:
        done = subprocess.run(
            _command(name, Path(folder), case),
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            encoding="utf-8",
        )
    if done.returncode:
        raise FailedError(f"{name} of {case.suite} failed: {done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _over_topics(case: Case) -> dict[str, Any]:
    with free_domains(1) as ((domain,), _), tempfile.TemporaryDirectory(prefix="lavla-bench-") as text:
        environment, log = {**ros_environment(), "ROS_DOMAIN_ID": str(domain)}, Path(text) / "log"
        with log.open("w", encoding="utf-8") as file:
            other = subprocess.Popen(
                _command("answer", Path(text), case), env=environment, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                return _measured("timed", replace(case, domain=domain), environment)
            except RuntimeError as error:
                raise FailedError(f"{error}\nwho answers said: {log.read_text(encoding='utf-8')}") from None
            finally:
                other.terminate()
                try:
                    other.wait(30.0)
                except subprocess.TimeoutExpired:  # it only answers: nothing of it is kept
                    other.kill()
                    other.wait()


if __name__ == "__main__":
    functions = {"shown": shown, "timed": timed, "pictures": pictures, "answer": answer}
    case = Case(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    print(json.dumps(functions[sys.argv[1]](case)))
