"""What the lock-step node's episodes are made of: the simulator, who acts in it, and who publishes what is seen."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.contract import ActionChunk, Observation
from lavla_ros.defaults import DEFAULT_DEVICE
from lavla_ros.episode import EpisodePhase
from lavla_ros.errors import is_users
from lavla_ros.ros.client import call
from lavla_ros.ros.scope import Scope
from sim_bridges.episode import Actor, CorrectedPolicy, ExpertActor, Observer, PlayedExpert, load_actor, run_episode
from sim_bridges.lockstep.parameters import LockstepParameters
from sim_bridges.lockstep.topics import BridgeError, LockstepTopics
from sim_bridges.suites import make_plans
from sim_bridges.world import (
    Disturbance,
    Environment,
    EpisodePlan,
    EpisodeStart,
    Expert,
    ExtraTopics,
    FindsScenes,
    HasDisturbance,
    HasDrivers,
    HasPhrasings,
    HasScenes,
    PlaysByItself,
    Suite,
    SuiteError,
)


class Episodes:
    """Runs episodes, one after another, in the thread that calls."""

    def __init__(
        self,
        topics: LockstepTopics,
        extra_topics: ExtraTopics | None,
        recorder: Callable[[], Recorder | None],
        ended: Callable[[], str],
        settings: LockstepParameters,
    ) -> None:
        """``ended``: why the episode is not wanted any longer, or empty."""
        self._topics, self._extra_topics, self._recorder, self._ended = topics, extra_topics, recorder, ended
        self._settings = settings
        self._of = ("", "")
        self._environment: Environment | None = None
        self._expert: Expert | None = None
        self._policy: Actor | None = None
        """Acts, and is corrected by the expert."""

    @property
    def task(self) -> str:
        """Of the present simulator."""
        return self._of[1]

    def prepare(self, name: str, suite: Suite, task: str, start: EpisodeStart) -> None:
        """Make what an episode needs. Raises what making it raises, SuiteError if there is no such expert, and what
        loading a checkpoint raises."""
        environment = self._load(name, suite, task)
        if self._settings.policy:
            expert: object = self._expert
            if isinstance(expert, PlaysByItself) and expert.only_plays:
                raise SuiteError(f"the expert of {task} moves the robot itself, and cannot take over from a policy")
            every = self._settings.replan_steps or suite.rules.replan_steps
            self._policy = load_actor(self._settings.policy, suite.contract, every=every, device=DEFAULT_DEVICE)
        if self._settings.disturb:
            _disturbance(environment, self._plan(suite, task, start, None))

    def run(
        self, name: str, suite: Suite, task: str, start: EpisodeStart, number: int | None
    ) -> tuple[EpisodePhase, dict[str, Any]]:
        """One episode to its end, whatever that is: how it ended, and JSON-ready the scene, ``state``, ``reason``,
        ``score``, ``steps`` and ``trajectory``. ``number``: among episodes that follow one another."""
        settings = self._settings
        scene = scene_of(suite, self._plan(suite, task, start, number))
        self._topics.describe(**scene)
        publisher: Publisher | None = None
        phase, reason, score = EpisodePhase.ERROR, "", 0.0
        try:
            self._topics.wait_for_listeners()
            environment = self._load(name, suite, task)
            if isinstance(environment, FindsScenes):
                shown = self._expert is not None
                start = environment.find(start, number=number, demonstration=shown, on_try=self._require_wanted)
            plan = self._plan(suite, task, start, number)
            scene = scene_of(suite, plan)
            several = environment.phrasings(plan) if isinstance(environment, HasPhrasings) else ()
            self._topics.describe(**scene, **({"phrasings": list(several)} if several else {}))
            publisher = Publisher(environment, self._topics, self._extra_topics, self._recorder(), self._require_wanted)
            episode = run_episode(
                environment,
                self._actor(suite),
                plan,
                contract=suite.contract,
                observer=publisher,
                disturbance=_disturbance(environment, plan) if settings.disturb else None,
            )
            phase = EpisodePhase.SUCCEEDED if episode.success else EpisodePhase.FAILED
            reason, score = episode.reason, episode.score
        except (RuntimeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            if not is_users(error):
                traceback.print_exc()
        steps, trajectory = (0, "") if publisher is None else (publisher.steps, publisher.trajectory)
        self._topics.announce(phase, reason=reason, steps=steps)
        over = {"state": phase, "reason": reason, "score": score, "steps": steps, "trajectory": trajectory}
        return phase, {**scene, **over}

    def close(self) -> None:
        if self._environment is not None:
            environment, self._environment, self._expert = self._environment, None, None
            environment.close()

    def _load(self, name: str, suite: Suite, task: str) -> Environment:
        """That of the task: the present one, or a new one in its place."""
        if self._environment is None or self._of != (name, task):
            self.close()
            settings = self._settings
            shown = settings.commander == "expert"
            self._environment = suite.environment(task, images=settings.record or not shown)
            self._of = (name, task)
            self._expert = self._environment.expert() if shown else None
        return self._environment

    def _actor(self, suite: Suite) -> Actor:
        expert = self._expert
        if expert is None:
            return _TopicActor(self._topics, every=self._settings.replan_steps or suite.rules.replan_steps)
        if self._policy is not None:
            assert self._environment is not None
            patience_steps = round(self._settings.patience_s / suite.contract.dt_s)
            told = self._topics.commanded_by
            return CorrectedPolicy(self._policy, expert, self._environment, patience_steps=patience_steps, told=told)
        if isinstance(expert, PlaysByItself) and expert.only_plays:
            return PlayedExpert(expert)
        return ExpertActor(expert, gives_up=True)

    def _plan(self, suite: Suite, task: str, start: EpisodeStart, number: int | None) -> EpisodePlan:
        """With the limit that was asked for, or the official one; a task's own limit is never exceeded."""
        limit = self._settings.max_steps or suite.rules.max_steps
        (plan,) = make_plans({task: [start]}, max_steps=limit, patience_steps=suite.rules.patience_steps)
        return replace(plan, index=number or 0, trial=number or 0)

    def _require_wanted(self) -> None:
        if why := self._ended():
            raise BridgeError(why)


class Recorder:
    """The recorder node's services."""

    def __init__(self, scope: Scope, timeout_s: float) -> None:
        self._timeout_s, self._recording = timeout_s, False
        self._start, self._stop = (scope.client(Trigger, name) for name in (topics.EPISODE_START, topics.EPISODE_STOP))
        self._mark = scope.client(SetBool, topics.EPISODE_MARK)

    def start(self) -> None:
        call(self._start, Trigger.Request(), self._timeout_s)
        self._recording = True

    def finish(self, phase: EpisodePhase) -> None:
        """Keep the bag, if there is one; one of an episode in error stays unmarked, and what it says on /episode/state
        tells why. Raises ServiceError."""
        if self._recording:
            self._recording = False
            if phase is not EpisodePhase.ERROR:
                call(self._mark, SetBool.Request(data=phase is EpisodePhase.SUCCEEDED), self._timeout_s)
            call(self._stop, Trigger.Request(), self._timeout_s)


def _disturbance(environment: Environment, plan: EpisodePlan) -> Disturbance:
    """Raises SuiteError if the suite has none."""
    if not isinstance(environment, HasDisturbance):
        raise SuiteError(f"the expert of {plan.task} cannot be disturbed: set disturb to false")
    return environment.disturbance(plan)


class _TopicActor(Actor):
    """A node that answers on /action_chunk."""

    needs_images = True
    done = False

    def __init__(self, topics: LockstepTopics, *, every: int) -> None:
        self._topics, self.every = topics, every

    def reset(self, plan: EpisodePlan) -> None:
        pass

    def chunk(self, observation: Observation) -> ActionChunk:
        """Raises BridgeError if none comes in time."""
        return self._topics.chunk(observation.stamp_ns, steps=self.every)


class Publisher(Observer):
    """Publishes what it sees. A recording shows every step; a policy looks at the ones that it plans from."""

    every_step = end = True

    def __init__(
        self,
        environment: Environment,
        topics: LockstepTopics,
        extra_topics: ExtraTopics | None,
        recorder: Recorder | None,
        require_wanted: Callable[[], None],
    ) -> None:
        """``recorder``: of an episode that is recorded. ``require_wanted`` raises if it is not wanted any longer."""
        self._environment, self._topics, self._extra_topics = environment, topics, extra_topics
        self._recorder, self._require_wanted = recorder, require_wanted
        self.images = recorder is not None
        self.steps = 0
        self._begun = False

    @property
    def trajectory(self) -> str:
        return self._environment.trajectory if self._begun else ""

    def look(self, environment: Environment, *, images: bool) -> Observation:
        sense = environment.sense if isinstance(environment, HasDrivers) else environment.observe
        return sense(images=images)

    def begun(self, initial_state: str) -> None:
        self._begun = True
        first = self.look(self._environment, images=False)
        self._topics.prepare(first.instruction, first_ns=first.stamp_ns)
        if self._recorder is not None:
            self._recorder.start()
        self._topics.begin()

    def observed(self, observation: Observation) -> None:
        self._require_wanted()
        self._topics.observe(observation.stamp_ns, observation.state, observation.images)
        if self._extra_topics is not None:
            stamp_ns = self._topics.stamp_ns(observation.stamp_ns)
            self._extra_topics.publish(self._environment, stamp_ns, images=bool(observation.images))

    def stepped(self, stamp_ns: int, action_A: NDArray[np.float64] | None) -> None:
        self.steps += 1
        if action_A is not None:
            self._topics.command(stamp_ns, action_A)


def scene_of(suite: Suite, plan: EpisodePlan) -> dict[str, Any]:
    """What bags, /episode/state and progress files call the scene; JSON-ready."""
    if isinstance(suite, HasScenes):
        return dict(suite.describe(plan))
    scene = {"suite": suite.name, "task": plan.task, "seed": plan.seed, **getattr(suite, "scene", {})}
    return scene if plan.state_index is None else {**scene, "initial_state": plan.state_index}
