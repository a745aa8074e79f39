"""What a world of tasks is to those who run episodes in it: evaluation, the lock-step node, recording.

A :class:`Suite` names its tasks, says how their episodes begin, and makes the :class:`Environment` that runs them.
Nothing else is known about a simulator. Only protocols and plain values here: everything of sim_bridges stands on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.errors import UserError

Options = Mapping[str, str]
"""A suite's own options, by name, as they are written on the command line (``-o name=value``)."""


class SuiteError(UserError, ValueError):
    """No such suite, task, initial state or option; the message names those that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePlan:
    """One episode, completely. The same plan always gives the same episode, whatever ran before it."""

    index: int
    """Its number in the evaluation."""
    task: str
    trial: int
    """Its number among the episodes of the task."""
    seed: int
    state_index: int | None
    """Which of the benchmark's recorded initial states; None if the seed decides the scene."""
    max_steps: int
    """Contract steps after which it has failed."""
    patience_steps: int | None = None
    """Contract steps without progress, that is without a higher score, after which it has failed; None: any number."""
    instruction: str = ""
    """What is said, where the task alone does not decide it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the scene stands, judged from the simulator's state."""

    success: bool
    score: float
    """Part of the task that is done, 0 to 1; 1 or 0 where the benchmark knows nothing between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """What the scenes are made of."""

    source: str
    """Where they came from, in words."""
    hash: str = ""
    """Content hash, where they are not part of the package."""
    stand_ins: int = 0
    """Files that are not the benchmark's own."""
    statement: str = ""
    """What that means, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparability:
    """Whether figures of an evaluation may stand beside published ones, and why not."""

    comparable: bool
    statement: str
    """One plain sentence or two, for the report."""


class Expert(Protocol):
    """A scripted policy on privileged state: asked at every step, for the scene as it is now; it needs no pictures."""

    @property
    def done(self) -> bool:
        """There is nothing left that it can do."""

    def reset(self) -> None:
        """The episode begins: forget the one before."""

    def chunk(self) -> ActionChunk: ...


OnFrame = Callable[[NDArray[np.float64]], None]
"""Told at a frame (a contract step) where the robot is commanded to, (A,)."""


@runtime_checkable
class PlaysByItself(Protocol):
    """An expert that can move the robot itself, in a motion that no commands repeat exactly."""

    @property
    def only_plays(self) -> bool:
        """Its chunks only repeat what it has played before."""

    def play(self, on_frame: OnFrame) -> str:
        """Play in the scene that was just reset; ``on_frame`` is called at the first frame and every following one.
        Returns why the goal was not reached; empty if it was."""


class Disturbance(Protocol):
    """Pushes in one episode of an expert, a function of its seed: demonstrations then show how to recover."""

    def apply(self, chunk: ActionChunk) -> ActionChunk:
        """What is executed in place of an expert's chunk, which stays as it is: it is the label. Called every step."""


class Environment(Protocol):
    """One simulator in the process that made it."""

    def reset(self, plan: EpisodePlan) -> str:
        """Begin the episode; returns a hash of the simulator's state."""

    def observe(self, *, images: bool) -> Observation:
        """The contract's observation; stamps are simulated time, and rise within an episode. Rendering must leave
        the state as it is: ``images`` changes no episode."""

    def step(self, chunk: ActionChunk | None) -> None:
        """One contract step; ``chunk`` if a new one has arrived, None to go on with the last."""

    def outcome(self) -> Outcome: ...

    @property
    def trajectory(self) -> str:
        """Hash over the simulator's states after every step of the episode."""

    def expert(self) -> Expert:
        """Raises SuiteError if the suite has none."""

    def close(self) -> None: ...


@runtime_checkable
class HasDisturbance(Protocol):
    """An environment whose expert can be pushed."""

    def disturbance(self, plan: EpisodePlan) -> Disturbance:
        """Raises SuiteError if this one's cannot."""


@runtime_checkable
class HasDrivers(Protocol):
    """An environment that has what drivers of cameras and joints would send, before the contract prepares it. Of any
    other the contract's own observation is published."""

    def sense(self, *, images: bool) -> Observation:
        """As ``observe``, with the cameras' own pictures and a state that is not rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """What a study begins from: shipped configurations below ``config/``, or files of yours."""

    action: Path
    """Of the action latent action model."""
    image: Path
    """Of the image latent action model."""
    policy: Path
    """Of the policies; its strategy is replaced."""
    episodes: int
    """Per task and policy."""
    seed: int | None = None
    """Of the evaluations; None: that of the suite's rules."""


@runtime_checkable
class FindsScenes(Protocol):
    """An environment in which the expert tries a scene first: only what it solves is an episode."""

    def find(
        self, start: EpisodeStart, *, number: int | None, demonstration: bool, on_try: Callable[[], None]
    ) -> EpisodeStart:
        """The episode of this start, or, with a ``number``, the first one from there on that was not found yet.

        ``number``: among episodes that follow one another. ``demonstration``: the expert will act in it. ``on_try`` is
        called before every try, and ends the search by raising. Raises SuiteError if there is no such episode.
        """


class Live(Protocol):
    """A stack of a suite's own, on which its episodes run in real time."""

    @property
    def ran(self) -> str:
        """What is part of it, for a report."""

    @property
    def episode_s(self) -> float:
        """Time after which an episode without success has failed."""

    def show(
        self, folder: Path, *, task: str, policy: str, episodes: int, seed: int, say: Callable[[str], None]
    ) -> list[Mapping[str, Any]]:
        """Run and record the scenes from ``seed`` on. For each: ``seed``, ``state``, ``score``, ``elapsed_s``, ``bag``.

        ``folder`` receives TASK.log, which errors name, and the bags.
        """


class ExtraTopics(Protocol):
    """Publishers of what a suite has besides its contract's streams."""

    def publish(self, environment: Any, stamp_ns: int, *, images: bool) -> None:
        """Right after the observation of ``stamp_ns``, which had pictures or not."""


class Suite(Protocol):
    """Tasks and how their episodes begin. Making one must be cheap: no simulator, no pictures.

    A suite may say more, as attributes: ``task_sets`` (name → tasks), ``recipes`` (:class:`Recipes`, for studies),
    ``demonstration_steps`` (contract steps after which a recorded demonstration has failed, in place of the official
    limit; or task → steps), ``protocols`` (name → task → successful demonstrations of it, for recordings), ``scene``
    (what the scenes of its recordings say beside task and seed, for replays), ``policy`` (the one that comes with it,
    for benchmarks and demos), ``live`` (:class:`Live`, for demos and studies) and ``bench`` (what else a benchmark
    measures, from a task and the (steps, A) actions of its expert).
    """

    @property
    def name(self) -> str: ...

    @property
    def contract(self) -> Contract: ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """All of them, in the benchmark's order."""

    @property
    def default_tasks(self) -> tuple[str, ...]:
        """Those of an evaluation that names none."""

    @property
    def rules(self) -> Rules:
        """The benchmark's own numbers, the defaults of an evaluation."""

    @property
    def task_in_process(self) -> bool:
        """Whether a process can run one task only (a GL context that cannot be made twice)."""

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        """How a trial begins. Raises SuiteError if there is none."""

    def environment(self, task: str, *, images: bool) -> Environment:
        """Called in a worker process, once or, unless ``task_in_process``, once per task. ``images`` False:
        pictures will not be asked for."""

    def assets(self) -> Assets:
        """Raises the suite's own error, which says what to do, if they are missing."""

    def comparability(self, evaluated: EvaluationConditions) -> Comparability: ...

    def versions(self) -> tuple[str, ...]:
        """Distributions whose versions decide the bits of an episode."""


@runtime_checkable
class HasScenes(Protocol):
    """A suite that has its own words for a scene."""

    def describe(self, plan: EpisodePlan) -> Mapping[str, Any]:
        """What bags, /episode/state and progress files say of an episode's scene; JSON-ready."""


@runtime_checkable
class HasTasksWithoutExpert(Protocol):
    """A suite in which not every task has a scripted expert."""

    def require_expert(self, task: str) -> None:
        """Raises SuiteError if the task has none, before any simulator is made; it names the reason."""


@runtime_checkable
class HasPhrasings(Protocol):
    """An environment whose instructions can be said in several ways; recordings keep them, to train on."""

    def phrasings(self, plan: EpisodePlan) -> tuple[str, ...]:
        """All that a policy may be trained with in place of the plan's instruction, beginning with that one; empty if
        there is no other, or the instruction is one to evaluate with."""
        ...


@runtime_checkable
class HasExtraTopics(Protocol):
    """A suite that publishes more than its contract's streams."""

    def extra_topics(self, scope: Any) -> ExtraTopics:
        """``scope``, a :class:`lavla_ros.ros.scope.Scope`, makes the publishers and ends them."""


@runtime_checkable
class FindsEpisodes(Protocol):
    """A suite whose episodes have to be found before a policy is evaluated on them. Its expert, by whom they are found,
    is judged on what ``plan`` says, unless they are given."""

    @property
    def episodes_given(self) -> bool:
        """The user has listed them."""

    def find(
        self, tasks: Sequence[str], *, episodes: int, seed: int, folder: Path, workers: int
    ) -> dict[str, list[EpisodeStart]]:
        """``episodes`` of every task. What is found is kept in ``folder``, and not looked for again."""


class EpisodeStart(NamedTuple):
    """How an episode begins."""

    seed: int
    """Of the simulator."""
    state_index: int | None = None
    """Which of the benchmark's initial states."""
    instruction: str = ""
    """What is said, where the task alone does not decide it."""
    max_steps: int | None = None
    """Contract steps after which it has failed, where that differs from task to task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a benchmark is to be run."""

    episodes: int
    """Per task."""
    seed: int
    max_steps: int
    """The most of any task."""
    replan_steps: int
    """Contract steps between two inferences."""
    patience_steps: int | None = None
    """Contract steps without progress, that is without a higher score, after which an episode has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConditions:
    """What a suite has to know to judge comparability."""

    tasks: tuple[str, ...]
    episodes: int
    seed: int
    max_steps: int
    replan_steps: int
    latency_steps: int
    policy: str
    backbone: str = ""
    """Of a checkpoint: tiny or pretrained."""
    options: Options = field(default_factory=dict)


def judge(benchmark: str, evaluated: EvaluationConditions, reasons: Sequence[str], statement: str) -> Comparability:
    """Whether figures may stand beside a benchmark's published ones. ``reasons``: what its suite knows to be otherwise;
    ``statement``: of the scenes."""
    reasons = [*reasons]
    if evaluated.policy == "expert" or evaluated.policy.startswith("replay:"):
        reasons.append("what acted is no policy: it looks at no image")
    if evaluated.latency_steps:
        reasons.append(f"every chunk arrived {evaluated.latency_steps} steps late")
    words = f"Comparable with published {benchmark} numbers: its official protocol. {statement}"
    if reasons:
        words = f"Not comparable with published {benchmark} numbers: {'; '.join(reasons)}."
    if evaluated.backbone == "tiny":
        words += " The policy has the package's tiny backbone, trained from scratch, not the paper's Qwen3-VL."
    return Comparability(comparable=not reasons, statement=words)
