"""Two evaluations of the same initial states, episode against episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from sim_bridges.evaluation.results import EpisodeResult, Results, ResultsError
from sim_bridges.evaluation.statistics import mcnemar_exact, sign_flip_exact, wilson95


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """How the pairs of episodes went."""

    both: int
    only_left: int
    only_right: int
    neither: int

    @property
    def count(self) -> int:
        return self.both + self.only_left + self.only_right + self.neither

    @property
    def left(self) -> int:
        return self.both + self.only_left

    @property
    def right(self) -> int:
        return self.both + self.only_right

    @property
    def p_value(self) -> float:
        return mcnemar_exact(self.only_left, self.only_right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of the pairs."""

    left: float
    """Mean."""
    right: float
    p_value: float
    """Of the mean difference, by the exact randomisation test of the pairs; two-sided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The left evaluation against the right one."""

    left: str
    right: str
    pairs: Pairs
    tasks: dict[str, Pairs]
    unpaired: int
    """Episodes that were left out: in error on one side, or run on one side only."""
    differing: tuple[tuple[EpisodeResult, EpisodeResult], ...] = ()
    """The pairs of which one succeeded and the other did not."""
    scores: Scores | None = None
    """None if a score says no more than whether an episode succeeded."""

    def to_dict(self) -> dict[str, Any]:
        def plain(pairs: Pairs) -> dict[str, Any]:
            return {
                "pairs": pairs.count,
                **asdict(pairs),
                "difference": (pairs.right - pairs.left) / pairs.count,
                "p_value": pairs.p_value,
            }

        return {
            "left": self.left,
            "right": self.right,
            "unpaired": self.unpaired,
            **plain(self.pairs),
            "differing": [[ours.index, theirs.index] for ours, theirs in self.differing],
            "left_wilson95": wilson95(self.pairs.left, self.pairs.count),
            "right_wilson95": wilson95(self.pairs.right, self.pairs.count),
            "tasks": {task: plain(pairs) for task, pairs in self.tasks.items()},
            **({"scores": asdict(self.scores)} if self.scores is not None else {}),
        }

    def verdict(self) -> str:
        """One sentence that says what the pairs say, and no more."""
        pairs = self.pairs
        if pairs.only_left == pairs.only_right:
            return "No difference: neither succeeded more often where only one did."
        better = self.right if pairs.only_right > pairs.only_left else self.left
        if pairs.p_value < 0.05:
            return f"{better} is better on these initial states (exact McNemar p = {pairs.p_value:.2g})."
        return (
            f"{better} succeeded more often, but such a difference arises by chance alone too "
            f"(exact McNemar p = {pairs.p_value:.2g})."
        )

    def __str__(self) -> str:
        pairs = self.pairs
        lines = [f"{pairs.count} pairs of episodes from the same initial states"]
        if self.unpaired:
            lines[0] += f" ({self.unpaired} episodes without a scored partner are left out)"
        for name, successes in ((self.left, pairs.left), (self.right, pairs.right)):
            low, high = wilson95(successes, pairs.count)
            rate = successes / pairs.count
            lines.append(f"  {name}: {successes}/{pairs.count} ({rate:.1%}, Wilson 95% {low:.1%} to {high:.1%})")
        lines.append(
            f"  both {pairs.both}, only the first {pairs.only_left}, only the second {pairs.only_right}, "
            f"neither {pairs.neither}"
        )
        return "\n".join([*lines, *self.words_of_scores(), self.verdict()])

    def words_of_scores(self) -> list[str]:
        """A line, or none."""
        if (scores := self.scores) is None:
            return []
        apart = f"{100 * (scores.right - scores.left):+.1f} points, exact randomisation test p = {scores.p_value:.2g}"
        return [f"  mean scores {100 * scores.left:.1f} and {100 * scores.right:.1f}: {apart}"]


def short_names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: their paths without the parts that all of them begin or end with.

    Whole paths if that leaves one of them without a name.
    """
    paths = [folder.parts for folder in folders]
    shortest = min(map(len, paths))
    begin = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    end = next((i for i in range(shortest) if len({path[-1 - i] for path in paths}) > 1), shortest)
    names = [path[begin : len(path) - end] for path in paths]
    return [str(Path(*name)) for name in (names if all(names) else paths)]


def compare(left: Results, right: Results, *, names: tuple[str, str] | None = None) -> Comparison:
    """Pair the episodes by task, trial and seed.

    Raises ResultsError if the two are of different suites or contracts, if a pair did not begin in the same
    state, or if nothing can be paired.
    """
    for what, ours, theirs in (
        ("suite", left.suite, right.suite),
        ("contract", left.contract_hash, right.contract_hash),
        ("assets", left.assets.get("hash"), right.assets.get("hash")),
        ("max_steps", left.settings.get("max_steps"), right.settings.get("max_steps")),
    ):
        if ours != theirs:
            raise ResultsError(f"the evaluations cannot be paired: {what} {ours!r} in one, {theirs!r} in the other")
    partners = {_key(e): e for e in right.scored}
    pairs = [(e, partners[_key(e)]) for e in left.scored if _key(e) in partners]
    if not pairs:
        raise ResultsError("the evaluations have no episode of the same task, trial and seed in common")
    for ours_, theirs_ in pairs:
        if ours_.initial_state != theirs_.initial_state:
            raise ResultsError(
                f"episode {ours_.trial} of {ours_.task!r} began in state {ours_.initial_state} in one evaluation and "
                f"{theirs_.initial_state} in the other: other versions of the simulator? Compare what is the same"
            )
    counted: dict[str, Counter[tuple[bool, bool]]] = {}
    for ours_, theirs_ in pairs:
        counted.setdefault(ours_.task, Counter())[ours_.success, theirs_.success] += 1
    total: Counter[tuple[bool, bool]] = Counter()
    for counts in counted.values():
        total.update(counts)
    named = names or (left.policy, right.policy)
    return Comparison(
        left=named[0],
        right=named[1],
        pairs=_pairs(total),
        tasks={task: _pairs(counts) for task, counts in counted.items()},
        unpaired=len(left.episodes) + len(right.episodes) - 2 * len(pairs),
        differing=tuple((ours_, theirs_) for ours_, theirs_ in pairs if ours_.success != theirs_.success),
        scores=_scores(pairs),
    )


def _scores(pairs: Sequence[tuple[EpisodeResult, EpisodeResult]]) -> Scores | None:
    if all(each.score == each.success for pair in pairs for each in pair):
        return None
    return Scores(
        left=mean(ours.score for ours, _ in pairs),
        right=mean(theirs.score for _, theirs in pairs),
        p_value=sign_flip_exact([theirs.score - ours.score for ours, theirs in pairs]),
    )


def _key(episode: EpisodeResult) -> tuple[str, int, int, int | None]:
    return episode.task, episode.trial, episode.seed, episode.state_index


def _pairs(counts: Counter[tuple[bool, bool]]) -> Pairs:
    return Pairs(
        both=counts[True, True],
        only_left=counts[True, False],
        only_right=counts[False, True],
        neither=counts[False, False],
    )
