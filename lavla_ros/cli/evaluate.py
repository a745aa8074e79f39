"""``lavla eval``, ``lavla compare`` and ``lavla study``."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from lavla_ros.cli.arguments import Json, SuiteOptions, fields_of
from lavla_ros.cli.terminal import PROGRAM, CommandError, Progress, say
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.worlds import DEFAULT_SUITE


def evaluate(
    config: Annotated[
        EvaluationConfig,
        fields_of(EvaluationConfig, positional=["suite"], without=["options"], tasks="task", timeout_s="timeout"),
    ],
    option: SuiteOptions = (),
    workers: int = 1,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """The same seed and the same checkpoint give the same episodes, bit for bit.

    With --out, every finished episode is kept: the same command continues after an interruption, and repeats episodes
    that ended in an error. Options left out take the benchmark's official values.

    Example: lavla eval tabletop --task pick_place --policy bundled --episodes 50 --seed 0 --out runs/eval

    Example: lavla eval libero_object --task 3 --policy runs/policy/best --workers 2 --out runs/object

    Example: lavla eval robotwin --robotwin-root RoboTwin --task paper_4 --policy runs/policy/best --out runs/robotwin

    Args:
        option: Option of the suite, written name=value; it may be given several times. --name value does the same.
        workers: Number of parallel simulators. It changes only the time that the evaluation takes.
        out: Folder for results.json, report.html and every finished episode.
        as_json: Print the results as JSON.
    """
    from sim_bridges.evaluation.evaluation import evaluate as run
    from sim_bridges.evaluation.results import EpisodeResult
    from sim_bridges.paper.tables import PAPER
    from sim_bridges.suites import parse_options

    given = {name: value for name, value in parse_options(option).items() if value}
    config = replace(config, options=given)
    progress = Progress(config.suite, quiet=as_json)

    def on_episode(result: EpisodeResult) -> None:
        progress.advance("error" if result.error else "success" if result.success else "failure")

    with progress:
        results = run(
            config, out=out, workers=workers, on_start=progress.expect, on_episode=on_episode, published=PAPER
        )
    if as_json:
        print(json.dumps(results.to_dict(), indent=2))
    else:
        print(results.summary())
        print(results.comparable)
        speed = [f"{results.real_time_factor:.1f} x real time"] if results.real_time_factor else []
        if last := "; ".join([*speed, *([f"written to {out}"] if out else [])]):
            print(last)
    if results.errors:
        first = results.errors[0]
        raise CommandError(
            f"{len(results.errors)} episodes ended in error; the first, episode {first.index}: {first.error}"
            + ("; the same command repeats them" if out else "")
        )


def compare(
    evaluations: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """The first evaluation is the reference; each of the others, if it is of the same suite, is paired with it by an
    exact McNemar test. With --out, a page shows all of them beside the paper's tables.

    Example: lavla compare runs/object_baseline runs/object_la_direct --out runs/object.html

    Args:
        evaluations: Folders of "lavla eval --out", or their results.json files.
        out: Name of the HTML page.
        as_json: Print the comparisons as JSON.
    """
    from sim_bridges.evaluation.compare import compare as pair
    from sim_bridges.evaluation.compare import short_names
    from sim_bridges.evaluation.report import write_comparison
    from sim_bridges.evaluation.results import Results
    from sim_bridges.paper.tables import PAPER

    if len(evaluations) < 2:
        raise CommandError(f"{len(evaluations)} evaluations given; a comparison needs two or more")
    results = [Results.read(path) for path in evaluations]
    names = short_names([path.parent if path.suffix == ".json" else path for path in evaluations])
    others = [i for i in range(1, len(results)) if results[i].suite == results[0].suite]
    if not others:
        suites = sorted({each.suite for each in results})
        raise CommandError(f"nothing to pair with {names[0]}: the evaluations are of the suites {suites}")
    comparisons = [pair(results[0], results[i], names=(names[0], names[i])) for i in others]
    if out is not None:
        command = shlex.join(["lavla", "compare", *map(str, evaluations), "--out", str(out)])
        write_comparison(out, results, names, comparisons, reproduce=command, published=PAPER)
    if as_json:
        print(json.dumps([each.to_dict() for each in comparisons], indent=2))
    else:
        print("\n\n".join(map(str, comparisons)))


def study(
    bags: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    suite: str = DEFAULT_SUITE,
    option: SuiteOptions = (),
    task: tuple[str, ...] = (),
    steps: int = 2000,
    strategies: tuple[str, ...] = (),
    episodes: int | None = None,
    replan_steps: int | None = None,
    live_episodes: int = 3,
    workers: int = 2,
    action_recipe: Path | None = None,
    image_recipe: Path | None = None,
    policy_recipe: Path | None = None,
) -> None:
    """The study runs unattended, from bags to a table, and continues where it was stopped: it makes a dataset, two
    latent action models, their labels and a policy for each strategy, evaluates the policies in lock-step, compares
    them, and if the suite has a live stack also runs each through its node there. It writes OUT/study.md, study.json
    and compared.html.

    Example: lavla record --out runs/bags --episodes 600 --workers 2 && lavla study runs/bags --out runs/study

    Example: lavla study runs/libero_bags --suite libero_object --task 3 --out runs/libero_study

    Args:
        bags: Recorded episodes, or folders of them.
        out: Folder of the study.
        suite: Suite where the bags were recorded and the policies are evaluated: its name, or module:factory of yours.
        option: Option of the suite, written name=value; it may be given several times. --name value does the same.
        task: Tasks of the suite, by name or number. The default is the suite's own choice.
        steps: Number of optimizer steps of every policy.
        strategies: Strategies to compare, by name or as module:attribute. The default is all of the package.
        episodes: Number of lock-step episodes per task and policy. The default is the suite's for studies.
        replan_steps: Number of contract steps between two inferences. The default is the suite's.
        live_episodes: Number of episodes of each policy on the suite's live stack; 0 leaves them out.
        workers: Number of policies that are trained and evaluated at a time.
        action_recipe: Configuration of the action latent action model. The default is the suite's.
        image_recipe: Configuration of the image latent action model. The default is the suite's.
        policy_recipe: Configuration of the policies. The default is the suite's.
    """
    from sim_bridges.paper.study import StudyConfig, run_study
    from sim_bridges.suites import parse_options

    config = StudyConfig(
        bags=bags,
        out=out,
        suite=suite,
        options=parse_options(option),
        tasks=task,
        steps=steps,
        strategies=strategies,
        episodes=episodes,
        replan_steps=replan_steps,
        live_episodes=live_episodes,
        workers=workers,
        action_recipe=action_recipe,
        image_recipe=image_recipe,
        policy_recipe=policy_recipe,
    )
    table = run_study(config, lambda text: say(f"study: {text}"), lavla=PROGRAM)
    print(table.read_text(encoding="utf-8"))
