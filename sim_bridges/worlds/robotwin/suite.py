"""RoboTwin 2.0 as a suite, by its official protocol, and its stand-in.

As RoboTwin's ``eval_policy`` does it: seeds from 100000 · (1 + seed) on, of which those count that the expert solves;
for each of them an instruction from the unseen templates; a new scene of that seed for the policy; RoboTwin's step
limit of the task, and its own check. What is done differently: the instruction depends on the episode's seed alone, and
a command that is not finite, of the wrong size or out of the joints' limits is an error of the policy, not executed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.resources import config_path
from lavla_ros.typing import FloatArray
from sim_bridges.episode import ChunksOfOne
from sim_bridges.world import (
    Assets,
    Comparability,
    Disturbance,
    EpisodePlan,
    EpisodeStart,
    EvaluationConditions,
    Expert,
    ExtraTopics,
    OnFrame,
    Outcome,
    Recipes,
    Rules,
    SuiteError,
    judge,
)
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError, View
from sim_bridges.worlds.robotwin.search import search
from sim_bridges.worlds.robotwin.seeds import MOST_REJECTED_IN_A_ROW, SeedFile, Tried, accepted, first_seed, try_seed
from sim_bridges.worlds.robotwin.sources import open_source
from sim_bridges.worlds.robotwin.task_sets import PAPER_4, TASK_SETS
from sim_bridges.worlds.robotwin.task_source import Instructions, KnowsSeen, TaskSource

SEEDS_FILE = "seeds.json"
"""In the folder of an evaluation: what was tried, what counts, and what is said."""
PROTOCOL_EPISODES = 100
CHUNK_STEPS = 25
"""Commands between two inferences: the whole chunk, as RoboTwin's own policies do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandinOptions:
    """What the stand-in may be told."""

    instructions: Literal["", "seen", "unseen"] = ""
    """Which instruction templates; default is unseen, for demonstrations over topics seen."""
    seeds: str = ""
    """The seeds.json of another evaluation, whose episodes are run."""
    contract: str = "robotwin_aloha"
    """Contract: a shipped name or a YAML file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotwinOptions(StandinOptions):
    """What RoboTwin may be told."""

    robotwin_root: str = ""
    """A checkout with its assets; default is LAVLA_ROBOTWIN_ROOT."""
    task_config: str = ""
    """Its configuration of the scenes; default is demo_clean."""


class RobotwinSuite:
    """See :class:`sim_bridges.world.Suite` and :class:`sim_bridges.world.FindsEpisodes`."""

    task_in_process = False

    def __init__(
        self,
        source: TaskSource,
        *,
        default_tasks: tuple[str, ...],
        options: StandinOptions = StandinOptions(),  # frozen
        most_rejected: int = MOST_REJECTED_IN_A_ROW,
    ) -> None:
        """``most_rejected``: seeds in a row that the expert may fail on."""
        self.name = source.suite
        self.contract: Contract = load_contract(options.contract)
        self.tasks = source.tasks
        self.task_sets = TASK_SETS
        self.default_tasks = default_tasks
        self.source = source
        self.instructions: Instructions = options.instructions or "unseen"
        self._said = options.instructions
        self._seeds = options.seeds
        self.recipes = Recipes(
            action=config_path("latent/action_robotwin_tiny.yaml"),
            image=config_path("latent/image_robotwin_tiny.yaml"),
            policy=config_path("training/robotwin_tiny.yaml"),
            episodes=100,
        )
        self._most_rejected = most_rejected
        self.rules = Rules(
            episodes=PROTOCOL_EPISODES,
            seed=0,
            max_steps=max(map(source.step_limit, self.tasks), default=1),
            replan_steps=CHUNK_STEPS,
        )

    @property
    def episodes_given(self) -> bool:
        return bool(self._seeds)

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        """Consecutive, unfiltered seeds: they are used to evaluate the expert itself."""
        return EpisodeStart(first_seed(seed) + trial, None, "", self.source.step_limit(task))

    def find(
        self, tasks: Sequence[str], *, episodes: int, seed: int, folder: Path, workers: int
    ) -> dict[str, list[EpisodeStart]]:
        """The protocol's episodes: those of the list that was given, else those that the expert solves.

        Kept in the folder's seeds.json as they are found. Raises RobotwinError if the expert solves none, SuiteError
        where the list that was given has too few or other ones than the folder's.
        """
        listed = SeedFile(folder / SEEDS_FILE, self.source.provenance(), self.instructions)
        if self._seeds:
            self._take_given(listed, tasks, episodes)
        found: dict[str, list[EpisodeStart]] = {}
        for task in tasks:
            tries = partial(search, self.source, self.contract, task, self.instructions, workers)
            rows = accepted(
                task,
                first_seed(seed),
                listed.tasks.get(task, []),
                tries,
                most_rejected=self._most_rejected,
                on_tried=partial(listed.add, task),
            )
            limit = self.source.step_limit(task)
            with closing(rows):  # its processes end
                found[task] = [EpisodeStart(row.seed, None, row.instruction, limit) for row in islice(rows, episodes)]
        return found

    def describe(self, plan: EpisodePlan) -> dict[str, Any]:
        made = self.source.provenance()
        scene = {"suite": self.name, "task": plan.task, "seed": plan.seed}
        return {**scene, "assets": made.hash, "comparable": made.comparable}

    def extra_topics(self, scope: Any) -> ExtraTopics:
        from sim_bridges.worlds.robotwin.extra_topics import RobotwinTopics

        return RobotwinTopics(scope, self.contract)

    def listed(self, kind: Instructions) -> SeedFile | None:
        """The list that was given, with its instructions. Raises SuiteError if it is none."""
        if self._seeds and not Path(self._seeds).is_file():
            raise SuiteError(f"--seeds {self._seeds} is not a file; give the seeds.json of an evaluation's folder")
        return SeedFile(Path(self._seeds), self.source.provenance(), kind) if self._seeds else None

    def instructions_of(self, *, demonstration: bool) -> Instructions:
        """Those that were asked for; else what RoboTwin trains on for a demonstration, and evaluates on otherwise."""
        return self._said or ("seen" if demonstration else "unseen")

    def environment(self, task: str, *, images: bool) -> RobotwinTaskEnvironment:
        return RobotwinTaskEnvironment(self.source.environment(task, self.contract), self)

    def assets(self) -> Assets:
        made = self.source.provenance()
        return Assets(source=made.source, hash=made.hash, statement=made.statement)

    def comparability(self, evaluated: EvaluationConditions) -> Comparability:
        made, reasons = self.source.provenance(), []
        if not made.comparable:
            reasons.append("the scenes are a stand-in's, not RoboTwin's")
        if evaluated.episodes != PROTOCOL_EPISODES:
            reasons.append(f"{evaluated.episodes} episodes a task in place of {PROTOCOL_EPISODES}")
        if self.instructions != "unseen":
            reasons.append(f"{self.instructions} instructions in place of unseen ones")
        if evaluated.max_steps < max(map(self.source.step_limit, evaluated.tasks)):
            reasons.append(f"{evaluated.max_steps} steps at most in place of RoboTwin's limits")
        return judge("RoboTwin 2.0", evaluated, reasons, made.statement)

    def bench(self, task: str, actions_NA: FloatArray) -> dict[str, Any]:
        """Physics steps per second of an episode without pictures: the expert's, whose arms move."""
        with closing(self.source.environment(task, self.contract)) as environment:
            environment.reset(first_seed(self.rules.seed))
            began = time.perf_counter()
            for action in actions_NA:
                environment.step(action)
            return {"physics_steps_per_s": environment.physics_steps / (time.perf_counter() - began)}

    def versions(self) -> tuple[str, ...]:
        return self.source.distributions

    def _take_given(self, listed: SeedFile, tasks: Sequence[str], episodes: int) -> None:
        """Make the folder's list the one that was given."""
        path, given = Path(self._seeds), self.listed(self.instructions)
        assert given is not None
        for task in tasks:
            if (count := len(given.accepted(task))) < episodes:
                raise SuiteError(f"{path} has {count} episodes of {task}; {episodes} are to be run")
            if listed.tasks.setdefault(task, given.tasks[task]) != given.tasks[task]:
                raise SuiteError(f"{listed.path} has other episodes of {task} than {path}; give another --out")
        listed.write()


def robotwin(options: RobotwinOptions = RobotwinOptions()) -> RobotwinSuite:  # frozen
    """RoboTwin itself, from a checkout. Raises RobotwinError if there is none, or of another layout."""
    source = open_source(options.robotwin_root, options.task_config)
    default_tasks = tuple(task for task in PAPER_4 if task in source.tasks)
    return RobotwinSuite(source, default_tasks=default_tasks, options=options)


def robotwin_standin(options: StandinOptions = StandinOptions()) -> RobotwinSuite:  # frozen
    """The stand-in, which needs no assets."""
    source = open_source("standin")
    return RobotwinSuite(source, default_tasks=source.tasks, options=options)


class RobotwinTaskEnvironment:
    """One task as an environment of the harness: the commands of a chunk are executed one a step, each to its end."""

    def __init__(self, environment: RobotwinEnvironment, suite: RobotwinSuite) -> None:
        self.environment = environment
        self.seen: View | None = None
        """All that was drawn for the newest observation of :meth:`sense`."""
        self._suite = suite
        self._found_seed = -1
        """The last one that was found among episodes that follow one another."""
        self._observed: dict[int, int] = {}
        """Stamp of an observation → the step at which it was taken."""
        self._chunk: ActionChunk | None = None
        self._plan: EpisodePlan | None = None

    def reset(self, plan: EpisodePlan) -> str:
        """The hash is over the scene and what is said: episodes pair where both are equal."""
        self._observed, self._chunk, self._plan = {}, None, plan
        self.environment.reset(plan.seed, instruction=plan.instruction)
        digest = hashlib.sha256(self.environment.states().tobytes() + plan.instruction.encode())
        return digest.hexdigest()[:16]

    def observe(self, *, images: bool) -> Observation:
        self._observed[self.environment.time_ns] = self.environment.steps
        return self.environment.observe(images)

    def sense(self, *, images: bool) -> Observation:
        inner = self.environment
        self._observed[inner.time_ns] = inner.steps
        self.seen = inner.view() if images else None
        state = inner.commanded() if self.seen is None else self.seen.state
        return Observation(
            stamp_ns=inner.time_ns,
            images={} if self.seen is None else self.seen.images,
            state=cast("NDArray[np.float32]", state),  # float64, as a driver sends it
            instruction=inner.instruction,
        )

    def step(self, chunk: ActionChunk | None) -> None:
        """Raises RobotwinError for a command that is refused."""
        if chunk is not None:
            self._chunk = chunk
        self.environment.step(self._due())

    def outcome(self) -> Outcome:
        success = self.environment.success
        return Outcome(success=success, score=float(success))

    @property
    def trajectory(self) -> str:
        return self.environment.trajectory

    def expert(self) -> Expert:
        return _Demonstrator(self)

    def disturbance(self, plan: EpisodePlan) -> Disturbance:
        """Raises RobotwinError if the expert does not act through commands."""
        return self._suite.source.disturbance(plan.seed)

    def phrasings(self, plan: EpisodePlan) -> tuple[str, ...]:
        """Those of a source that knows them without playing the episode; an unseen instruction has none."""
        source = self._suite.source
        seen = source.seen_instructions(self.environment.name, plan.seed) if isinstance(source, KnowsSeen) else ()
        return tuple(dict.fromkeys((plan.instruction, *seen))) if plan.instruction in seen else ()

    def find(
        self, start: EpisodeStart, *, number: int | None, demonstration: bool, on_try: Callable[[], None]
    ) -> EpisodeStart:
        """Raises RobotwinError if the expert solves no such seed, or the list has none."""
        task, source = self.environment.name, self._suite.source
        kind = self._suite.instructions_of(demonstration=demonstration)
        check = partial(try_seed, self.environment, source, kind=kind)
        listed = self._suite.listed(kind)
        rows = listed.accepted(task) if listed is not None else []
        if listed is not None and number is not None:
            if number >= len(rows):
                raise RobotwinError(f"{listed.path} has {len(rows)} episodes of {task}, and no number {number}")
            found = rows[number]
        elif number is None:
            known = [row for row in rows if row.seed == start.seed]
            on_try()
            found = known[0] if known else check(start.seed)
            if found.rejected:
                raise RobotwinError(
                    f"seed {start.seed} of {task} is no episode: the expert does not solve it ({found.rejected})"
                )
        else:

            def tries(seed: int) -> Generator[Tried]:
                while True:
                    on_try()
                    yield check(seed)
                    seed += 1

            # Earlier episodes had to skip seeds.
            found = next(accepted(task, max(start.seed, self._found_seed + 1), (), tries))
            self._found_seed = found.seed
        return start._replace(seed=found.seed, instruction=found.instruction)

    def restart(self) -> None:
        """Reset to the same episode, after the expert has shown it."""
        assert self._plan is not None
        self.reset(self._plan)

    def close(self) -> None:
        self.environment.close()

    def _due(self) -> FloatArray:
        """The chunk's action for the present step: steps are counted, as they take unequal times. A chunk that arrives
        late begins with the action that is due now; past its end the robot keeps its targets."""
        if self._chunk is not None:
            number = self.environment.steps - self._observed[self._chunk.stamp_ns]
            if number < self._chunk.horizon:
                return np.asarray(self._chunk.actions_HA[number], np.float64)
        return self.environment.commanded()


class _Demonstrator(ChunksOfOne):
    """RoboTwin's expert, which plays by itself; asked for commands, it repeats in the same scene what it has shown,
    target by target. One that acts through commands gives its own."""

    def __init__(self, owner: RobotwinTaskEnvironment) -> None:
        environment = owner.environment
        self.only_plays = not environment.has_commands_of_an_expert
        super().__init__(self._shown if self.only_plays else environment.commands_of_expert, environment)
        self._owner = owner

    def play(self, on_frame: OnFrame) -> str:
        environment = self._owner.environment
        return environment.demonstrate(lambda: on_frame(environment.commanded())).reason

    def _shown(self) -> _Repeated:
        shown = self._owner.environment.demonstrate()
        self._owner.restart()
        return _Repeated(shown.targets_NA[1:])


class _Repeated:
    """Commands in a row; after the end the last one again."""

    def __init__(self, commands_NA: FloatArray) -> None:
        self._commands_NA, self._next = commands_NA, 0

    done = False

    def act(self) -> FloatArray:
        command: FloatArray = self._commands_NA[min(self._next, len(self._commands_NA) - 1)]
        self._next += 1
        return command
