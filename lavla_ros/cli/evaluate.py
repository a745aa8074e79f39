"""``lavla eval``, ``lavla compare`` and ``lavla study``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import tyro

from lavla_ros.cli.arguments import Json, fields_of
from lavla_ros.cli.terminal import PROGRAM, CommandError, Progress, say
from lavla_ros.outputs import new_file
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.paper.config import StudyConfig


def evaluate(
    config: Annotated[
        EvaluationConfig,
        fields_of(EvaluationConfig, positional=["suite"], tasks="task", timeout_s="timeout"),
    ],
    workers: int = 1,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """The same seed and the same checkpoint give the same episodes, bit for bit.

    With --out, every finished episode is kept: the same command continues after an interruption, and repeats episodes
    that ended in an error.

    Example: lavla eval tabletop --task pick_place --policy bundled --episodes 50 --seed 0 --out runs/eval

    Example: lavla eval libero_object --task 3 --policy runs/policy/best --workers 2 --out runs/object

    Example: lavla eval robotwin --robotwin-root RoboTwin --task paper_4 --policy runs/policy/best --out runs/robotwin

    Args:
        workers: Number of parallel simulators. It changes only the time that the evaluation takes.
        out: Folder for results.json, report.html and every finished episode. By default nothing is kept.
        as_json: Print the results as JSON.
    """
    from sim_bridges.evaluation.evaluation import evaluate as run
    from sim_bridges.evaluation.results import EpisodeResult
    from sim_bridges.paper.tables import PAPER

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
        out: Name of the HTML page. By default no page is written.
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
        with new_file(out) as page:
            write_comparison(page, results, names, comparisons, reproduce=command, published=PAPER)
    if as_json:
        print(json.dumps([each.to_dict() for each in comparisons], indent=2))
    else:
        print("\n\n".join(map(str, comparisons)))


def study(
    config: Annotated[StudyConfig, fields_of(StudyConfig, positional=["bags"], tasks="task")],
) -> None:
    """A study file says which methods of the paper are compared on which tasks, with several training seeds, as
    docs/study.md explains. From recorded bags the strategies are compared, with one seed. It runs unattended, shows
    first what it costs, and continues where it was stopped: datasets, latent action models, labels, policies and
    evaluations are made once each. It writes OUT/report.html, study.md and study.json.

    Example: lavla study config/studies/tabletop.yaml --out runs/study --plan

    Example: lavla record --out runs/bags --episodes 600 --workers 2 && lavla study runs/bags --out runs/study

    Example: lavla study runs/libero_bags --suite libero_object --task 3 --out runs/libero_study
    """
    from sim_bridges.paper.study import run_study

    result = run_study(
        config.study(),
        config.out,
        lambda text: say(f"study: {text}"),
        workers=config.workers,
        lavla=PROGRAM,
        plan_only=config.plan,
    )
    if not config.plan:
        print(result.read_text(encoding="utf-8"))
