"""One episode: the only loop that steps a simulator.

An evaluation, the lock-step node, a recording and the measurement of an expert differ in who acts and in who looks on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, Observation, require_same_contract
from lavla_ros.episode import PERSON
from lavla_ros.errors import UserError
from sim_bridges.world import Disturbance, Environment, EpisodePlan, Expert, OnFrame, PlaysByItself


class PolicyError(UserError, RuntimeError):
    """The policy cannot be used, or what it commanded cannot be executed."""


class Actor(Protocol):
    """Acts in an episode: a policy, an expert, a recording, a node on topics. Those that inherit need not end."""

    every: int
    """Contract steps between two chunks."""
    needs_images: bool

    @property
    def done(self) -> bool:
        """It gives up: there is nothing left that it can do."""

    def reset(self, plan: EpisodePlan) -> None:
        """A new episode begins."""

    def chunk(self, observation: Observation) -> ActionChunk:
        """The next actions, the first for the step that follows the observation."""

    def finish(self, *, success: bool) -> None:
        """The episode is over."""
        return

    def close(self) -> None:
        """No episode follows."""
        return


class Observer:
    """Looks on while an episode runs. This one does nothing; others override what they care about."""

    every_step = False
    """An observation is made at every step, not only when the actor asks for one."""
    images = False
    """Every observation has pictures, even those that the actor does not need."""
    end = False
    """An observation is made at the end too."""

    def look(self, environment: Environment, *, images: bool) -> Observation:
        """Make the observation that the actor and this observer get."""
        return environment.observe(images=images)

    def begun(self, initial_state: str) -> None:
        """The scene is set up; ``initial_state`` is its hash."""

    def waiting(self, who: Literal["simulator", "policy"], step: int) -> None:
        """``who`` works on ``step`` from now on."""

    def observed(self, observation: Observation) -> None:
        """An observation was made, before the step that follows it or at the end."""

    def stepped(self, stamp_ns: int, action_A: NDArray[np.float64] | None) -> None:
        """A step is done. ``action_A``: what was commanded for it, before any disturbance; None if nothing was.
        ``stamp_ns``: when the step began, as far as an observation was made then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """How an episode ended."""

    success: bool
    score: float
    steps: int
    trajectory: str
    reason: str
    """Why it is no success; empty if it is one."""


def run_episode(
    environment: Environment,
    actor: Actor,
    plan: EpisodePlan,
    *,
    contract: Contract,
    observer: Observer | None = None,
    disturbance: Disturbance | None = None,
    latency_steps: int = 0,
) -> Episode:
    """Run to success, to one of the plan's limits, or until the actor gives up.

    ``latency_steps``: contract steps that pass between an observation and its chunk arriving. ``disturbance`` changes
    what is executed, never what the observer is told. Raises what the environment, the actor and the observer raise,
    PolicyError for a chunk that is not the contract's.
    """
    seen = observer or Observer()
    seen.waiting("simulator", 0)
    seen.begun(environment.reset(plan))
    actor.reset(plan)
    if isinstance(actor, PlayedExpert):
        return _played(environment, actor, seen)
    executed = 1 if actor.every == 1 else actor.every + latency_steps
    pending: list[tuple[int, ActionChunk]] = []
    newest: tuple[int, ActionChunk] | None = None
    outcome, steps, stamp_ns, reason = environment.outcome(), 0, 0, ""
    best, best_at = outcome.score, 0
    while not outcome.success:
        reason = _why_over(plan, steps, steps - best_at)
        if not reason and actor.done:
            reason = "the expert did not reach the goal"
        if reason:
            break
        asked = steps % actor.every == 0
        if asked or seen.every_step:
            observation = seen.look(environment, images=seen.images or (asked and actor.needs_images))
            stamp_ns = observation.stamp_ns
            seen.observed(observation)
        if asked:
            seen.waiting("policy", steps)
            chunk = actor.chunk(observation)
            seen.waiting("simulator", steps)
            check_chunk(chunk, contract, steps=executed)
            pending.append((steps, chunk))
        arrived = None
        if pending and pending[0][0] + latency_steps <= steps:
            newest = pending.pop(0)
            arrived = newest[1] if disturbance is None else disturbance.apply(newest[1])
        environment.step(arrived)
        seen.stepped(stamp_ns, _due(newest, steps))
        steps += 1
        outcome = environment.outcome()
        if outcome.score > best:
            best, best_at = outcome.score, steps
    trajectory = environment.trajectory
    actor.finish(success=outcome.success)
    if seen.end:
        seen.observed(seen.look(environment, images=actor.needs_images or seen.images))
    return Episode(success=outcome.success, score=outcome.score, steps=steps, trajectory=trajectory, reason=reason)


def _why_over(plan: EpisodePlan, steps: int, since_progress: int) -> str:
    """Which of the plan's limits is reached; empty for none."""
    if steps >= plan.max_steps:
        return f"the limit of {plan.max_steps} steps is reached"
    if plan.patience_steps is not None and since_progress >= plan.patience_steps:
        return f"there was no progress for {plan.patience_steps} steps"
    return ""


def _due(newest: tuple[int, ActionChunk] | None, step: int) -> NDArray[np.float64] | None:
    """The action (A,) of the newest chunk for this step; None if it has none."""
    if newest is None or step - newest[0] >= newest[1].horizon:
        return None
    action_A: NDArray[np.float64] = newest[1].actions_HA[step - newest[0]]
    return action_A


def _played(environment: Environment, actor: PlayedExpert, seen: Observer) -> Episode:
    """An expert that moves by itself, seen frame by frame: the command of a frame is where it is to be at the next."""
    stamps: list[int] = []

    def on_frame(commanded_A: NDArray[np.float64]) -> None:
        if stamps:
            seen.stepped(stamps[-1], commanded_A)
        observation = seen.look(environment, images=seen.images)
        seen.observed(observation)
        stamps.append(observation.stamp_ns)

    reason = actor.play(on_frame)
    return Episode(
        success=not reason,
        score=float(not reason),
        steps=max(0, len(stamps) - 1),
        trajectory=environment.trajectory,
        reason=reason,
    )


class ExpertActor(Actor):
    """A suite's scripted expert, asked at every step."""

    every = 1
    needs_images = False

    def __init__(self, expert: Expert, *, gives_up: bool = False) -> None:
        """``gives_up``: the episode ends if the expert has nothing left to do, in place of waiting for the limit."""
        self._expert, self._gives_up = expert, gives_up

    @property
    def done(self) -> bool:
        return self._gives_up and self._expert.done

    def reset(self, plan: EpisodePlan) -> None:
        self._expert.reset()

    def chunk(self, observation: Observation) -> ActionChunk:
        return self._expert.chunk()


class Plans(Protocol):
    """A policy in this process, or one that is served to it."""

    @property
    def contract(self) -> Contract: ...

    def reset(self) -> None: ...

    def predict(self, observation: Observation) -> ActionChunk: ...


class PolicyActor(Actor):
    """A policy, asked at every replanning step."""

    needs_images = True
    done = False

    def __init__(self, policy: Plans, contract: Contract, *, every: int, named: str) -> None:
        """Raises ContractError if the policy was trained under another contract."""
        self.every, self._policy = every, policy
        ours, theirs = f"the suite (contract {contract.name})", f"policy {named}"
        require_same_contract(contract, policy.contract, ours_from=ours, theirs_from=theirs)

    def reset(self, plan: EpisodePlan) -> None:
        self._policy.reset()

    def chunk(self, observation: Observation) -> ActionChunk:
        return self._policy.predict(observation)


def load_actor(checkpoint: str, contract: Contract, *, every: int, device: str) -> PolicyActor:
    """A checkpoint in this process. Raises CheckpointError, ContractError."""
    from lavla_ros.policy.policy import load_policy  # imports torch

    # One thread: sums in another order would be other bits.
    policy = load_policy(checkpoint, device=device, threads=1)
    return PolicyActor(policy, contract, every=every, named=checkpoint)


class CorrectedPolicy(Actor):
    """A policy acts, and the suite's expert corrects it as a person would: it takes over when there is no progress, and
    gives the arm back when there is. Asked at every step."""

    every = 1
    needs_images = done = False

    def __init__(
        self,
        policy: Actor,
        expert: Expert,
        environment: Environment,
        *,
        patience_steps: int,
        told: Callable[[str, int], None],
    ) -> None:
        """``patience_steps``: steps without a better score after which the expert takes over. ``told`` hears who acts
        (policy or person), and from which of the simulator's times on (ns), at the start and at every change."""
        self._policy, self._expert, self._environment = policy, expert, environment
        self._patience_steps, self._told = patience_steps, told

    def reset(self, plan: EpisodePlan) -> None:
        self._policy.reset(plan)
        self._person, self._step = False, 0
        self._best, self._best_at = self._environment.outcome().score, 0
        self._planned: tuple[int, ActionChunk] | None = None

    def chunk(self, observation: Observation) -> ActionChunk:
        score, stamp_ns = self._environment.outcome().score, observation.stamp_ns
        progress = score > self._best
        if progress:
            self._best, self._best_at = score, self._step
        person = not progress and (self._person or self._step - self._best_at >= self._patience_steps)
        if self._step == 0 or person != self._person:
            self._person, self._planned = person, None
            self._expert.reset()
            self._told(PERSON if person else "policy", stamp_ns)
        step, self._step = self._step, self._step + 1
        if person:
            return self._expert.chunk()
        if self._planned is None or step - self._planned[0] >= self._policy.every:
            # what it gets is the contract's, whatever a recording is shown
            self._planned = step, self._policy.chunk(self._environment.observe(images=True))
        began, chunk = self._planned
        return replace(chunk, stamp_ns=stamp_ns, actions_HA=chunk.actions_HA[step - began :])


class PlayedExpert(ExpertActor):
    """An expert that moves the robot itself; it is not asked for chunks."""

    def __init__(self, player: PlaysByItself) -> None:
        self._player = player

    def reset(self, plan: EpisodePlan) -> None:
        pass

    def play(self, on_frame: OnFrame) -> str:
        return self._player.play(on_frame)


class ActsStepByStep(Protocol):
    """An expert without the form of chunks."""

    @property
    def done(self) -> bool: ...

    def act(self) -> NDArray[np.float64]:
        """The next action (A,), for the scene as it is now."""


class HasTime(Protocol):
    """A simulator under a contract."""

    contract: Contract

    @property
    def time_ns(self) -> int: ...


class ChunksOfOne:
    """An expert that acts step by step, as one of a suite."""

    def __init__(self, begin: Callable[[], ActsStepByStep], simulator: HasTime) -> None:
        """``begin``: gives the expert of the episode that begins now."""
        self._begin, self._simulator = begin, simulator
        self._expert: ActsStepByStep

    @property
    def done(self) -> bool:
        return self._expert.done

    def reset(self) -> None:
        self._expert = self._begin()

    def chunk(self) -> ActionChunk:
        contract = self._simulator.contract
        return ActionChunk(
            stamp_ns=self._simulator.time_ns,
            dt_ns=contract.dt_ns,
            actions_HA=np.asarray(self._expert.act(), np.float64)[None],
            names=contract.action.names,
        )


def check_chunk(chunk: ActionChunk, contract: Contract, *, steps: int) -> None:
    """Raises PolicyError for a chunk of the wrong size, order or rate, or with a value that is not finite.

    ``steps``: how many of its actions will be executed. What lies beyond the contract's limits is the environment's
    to judge: one limits joint targets as the arm's executor does, another refuses relative actions.
    """
    shape = tuple(chunk.actions_HA.shape)
    if len(shape) != 2 or shape[1] != contract.action_dim or shape[0] < 1:
        raise PolicyError(f"the chunk has shape {shape}; contract {contract.name} wants (H, {contract.action_dim})")
    if shape[0] < steps:
        raise PolicyError(f"the chunk has {shape[0]} actions; {steps} are to be executed before the next inference")
    if chunk.names != contract.action.names:
        raise PolicyError(f"the chunk is of {list(chunk.names)}; the contract wants {list(contract.action.names)}")
    if chunk.dt_ns != contract.dt_ns:
        raise PolicyError(f"the chunk's actions are {chunk.dt_ns} ns apart; the contract's {contract.dt_ns} ns")
    if not np.isfinite(chunk.actions_HA).all():
        step, column = (int(i) for i in np.argwhere(~np.isfinite(chunk.actions_HA))[0])
        value = chunk.actions_HA[step, column]
        raise PolicyError(
            f"action {step} of the chunk has {contract.action.names[column]} = {value}; it must be finite"
        )
