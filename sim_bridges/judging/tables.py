"""The rollouts of a model as the paper's Tables 13 to 22 have them: a row for each, with its parts and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim_bridges.judging.rubrics import Rubric, mean

Scores = Mapping[tuple[str, str, int], Sequence[float]]
"""Task, setting and number of a rollout → the scores of its parts."""


def rollout_table(title: str, rubrics: Mapping[str, Rubric], scores: Scores) -> str:
    """Markdown. ``rubrics``: of each task, in the order of the columns."""
    head = [title, "rollout"]
    for task, rubric in rubrics.items():
        several = [f"{task}: {part}" for part in rubric.parts] if len(rubric.parts) > 1 else []
        head += [*several, f"{task}: score"]
    rows = [head, ["---"] * len(head)]
    settings = list(dict.fromkeys(setting for _, setting, _ in scores))
    for setting in settings:
        numbers = sorted({number for _, of, number in scores if of == setting})
        for number in numbers:
            cells = [_cells(rubric, scores.get((task, setting, number))) for task, rubric in rubrics.items()]
            rows.append([setting.upper(), str(number), *(cell for group in cells for cell in group)])
        rows.append([setting.upper(), "Avg.", *_averages(rubrics, scores, (setting,))])
    if len(settings) > 1:
        rows.append(["", "Avg. (total)", *_averages(rubrics, scores, settings)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cells(rubric: Rubric, values: Sequence[float] | None) -> list[str]:
    wide = len(rubric.parts) > 1
    if values is None:
        return [""] * (len(rubric.parts) + 1 if wide else 1)
    return [*(f"{value:g}" for value in values if wide), f"{mean(list(values)):.2f}"]


def _averages(rubrics: Mapping[str, Rubric], scores: Scores, settings: Sequence[str]) -> list[str]:
    found = []
    for task, rubric in rubrics.items():
        rows = [values for (of, setting, _), values in scores.items() if of == task and setting in settings]
        if not rows:
            found += _cells(rubric, None)
            continue
        if len(rubric.parts) > 1:
            found += [f"{mean([row[part] for row in rows]):.2f}" for part in range(len(rubric.parts))]
        found.append(f"{mean([mean(list(row)) for row in rows]):.2f}")
    return found
