"""What each benchmark measures. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_CONTRACT
from lavla_ros.errors import FailedError

FULL_SIZE: Final = "2b"
"""The size of the paper's backbone, Qwen3-VL-2B."""


@dataclass(frozen=True, kw_only=True)
class LiveBench:
    """What benchmarks of the live stack have in common."""

    duration_s: float = 60.0
    """Number of seconds to measure."""
    policy: str = BUNDLED_POLICY
    """Checkpoint directory of the policy that runs, or "bundled"."""


@dataclass(frozen=True, kw_only=True)
class ServoBench(LiveBench):
    """Punctuality of the 125 Hz loop, measured at the controller."""

    settle_s: float = 3.0
    """Number of seconds that the stack runs before it is measured."""
    burn: bool = False
    """Load every core with a busy process meanwhile."""
    console: bool = False
    """Look at the arm and its cameras in the console's page meanwhile, with a headless Chromium."""


@dataclass(frozen=True, kw_only=True)
class SafetyBench:
    """What the arm does when something breaks."""

    scenarios: tuple[str, ...] = ()
    """Run only the scenarios whose names contain one of these texts. The default is all of them: seven minutes."""


@dataclass(frozen=True, kw_only=True)
class SceneBench:
    """How arms keep their distance on random plans in a cramped cell."""

    arms: tuple[str, ...] = ("jaka_minicobo", "jaka_zu5", "jaka_a5", "ur5e", "panda")
    """Arms in config/arms, YAML files, or two of public figures: ur5e and panda."""
    plans: int = 1000
    """Number of plans of each arm."""
    workers: int = 1
    """Number of processes."""
    results: str = ""
    """Folder of the figures of every 500 plans. What is there is not run again: a campaign may be interrupted."""
    episodes: int = 0
    """Number of episodes of the usual suite, in physics, with a post in the bundled policy's way."""
    seed: int = 0
    """The first plan's seed."""
    speed_scale: float = 1.0
    """Factor on the velocity limits."""


@dataclass(frozen=True, kw_only=True)
class PipelineBench(LiveBench):
    """Time from a camera's capture to the first servo command of the chunk."""

    replan_steps: int = 2
    """Number of contract steps between two inferences."""


@dataclass(frozen=True, kw_only=True)
class ConsoleBench:
    """CPU time of the console while its page is open."""

    duration_s: float = 30.0
    """Number of seconds to measure."""
    settle_s: float = 10.0
    """Number of seconds that the page is open before it is measured."""
    camera_rate_hz: float = 15.0
    """Rate of each camera's pictures."""
    contract: str = DEFAULT_CONTRACT
    """Contract of the robot, by which it has its cameras: a shipped name or a YAML file."""


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """Time and memory of an optimizer step."""

    strategies: tuple[str, ...] = ()
    """Strategies to measure, by name or as module:attribute. The default is all that come with the package."""
    size: Literal["2b", "small"] = FULL_SIZE
    """Whether the full-size model is measured, which needs a GPU, or a small one that runs anywhere."""
    batch_size: int = 32
    """Number of samples per step."""
    steps: int = 8
    """Number of steps whose median is taken."""
    warmup: int = 3
    """Number of steps before those."""


@dataclass(frozen=True, kw_only=True)
class SuiteBench:
    """Speed of a suite."""

    suite: str
    """Name of a suite, or module:factory of yours."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    task: str = ""
    """Task of the suite. The default is the first of those that it usually runs."""
    policy: str = ""
    """Policy whose evaluation is timed. The default is the one that the package has for the suite."""
    steps: int = 160
    """Largest number of contract steps of the timed episode."""
    replan_steps: int | None = None
    """Number of contract steps between two chunks. The default is the suite's."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of simulators that step side by side; 1 must be among them."""
    rounds: int = 3
    """Number of repetitions, whose median is taken."""
    episodes: int = 10
    """Number of episodes of a timed evaluation."""

    def __post_init__(self) -> None:
        if 1 not in self.workers:
            raise FailedError(
                f"the workers to try are {list(self.workers)}; one alone is what the others are compared with"
            )
