"""What corrected episodes are worth: a policy goes on from them, or from as many plain demonstrations.

    python -m benchmarks.corrections --task pick_place --policy runs/weak/best --dataset runs/weak_data --out runs/more

The suite's expert corrects the policy (``lavla record --policy``), and demonstrates alone in the same scenes. From the
policy, with its own dataset beside the new episodes, as many optimizer steps are trained for every number of episodes,
0 included, which shows what the steps alone do. All are evaluated on the same layouts. What is there in --out is not
made again. Prints a table, and writes table.md; intervals are over training seeds and layouts, as those of a study.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import merge, read_plain
from lavla_ros.lifeline import lifeline
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.results import Results
from sim_bridges.paper.inference import Estimate, difference, rate
from sim_bridges.suites import load_suite
from sim_bridges.worlds import DEFAULT_SUITE

KINDS = ("corrected", "plain")
FIRST_SEED = 50_000
"""Of the recorded scenes: no study or recipe records there."""


class Experiment:
    """The commands and their outputs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        self.counts = sorted(args.counts)

    def run(self) -> str:
        tables = {"before": self._tables([self.args.policy], "before")}
        for count in (0, *self.counts):
            for kind in KINDS if count else ("none",):
                policies = [self._trained(kind, count, seed) for seed in self.args.seeds]
                tables[f"{kind}_{count}"] = self._tables(policies, f"{kind}_{count}")
        return self._table(tables)

    def _made(self, output: Path, *words: object) -> Path:
        """Run ``lavla`` unless the output is there, whole."""
        done = output.with_name(f"{output.name}.done")
        if not done.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            print(f"lavla {' '.join(map(str, words))}", flush=True)
            command = [sys.executable, "-m", "lavla_ros.cli", *map(str, words)]
            subprocess.run(command, check=True, env=os.environ | lifeline())
            done.touch()
        return output

    def _datasets(self, kind: str, count: int) -> list[Path]:
        """Those of the first ``count`` episodes: one for each number that is asked for, with what it has more."""
        found = []
        for first, last in pairwise((0, *[number for number in self.counts if number <= count])):
            name, workers = f"{kind}_{first}_{last}", self.args.workers
            acting = ["--policy", self.args.policy] if kind == "corrected" else []
            task = ["--suite", self.args.suite, "--task", self.args.task]
            where = ["--episodes", last - first, "--seed", FIRST_SEED + first, "--workers", workers]
            bags = self.out / "bags" / name
            self._made(bags, "record", *task, *where, *acting, "--out", bags)
            dataset = self.out / "datasets" / name
            found.append(self._made(dataset, "convert", bags, "--out", dataset))
        return found

    def _trained(self, kind: str, count: int, seed: int) -> Path:
        args, output = self.args, self.out / "policies" / f"{kind}_{count}_seed{seed}"
        data = [args.dataset, *(self._datasets(kind, count) if count else [])]
        changes = {
            "output": str(output.absolute()),
            "initial": str(args.policy),
            "steps": args.steps,
            "seed": seed,
            "validate_every": args.steps,
            "save_every": args.steps,
            "data": {
                "mixture": [{"path": str(path.absolute())} for path in data],
                "interventions": {"weight": args.weight if kind == "corrected" else 1.0},
            },
            "optim": {"learning_rate": 3e-4, "warmup_steps": args.steps // 10, "ema_decay": 0.99},
        }
        recipe = args.recipe or load_suite(args.suite, {}).recipes.policy  # type: ignore[attr-defined]
        file = self.out / f"{output.name}.yaml"
        file.write_text(dump_yaml(merge(read_plain(recipe), changes)), encoding="utf-8")
        # the newest: the held-out episodes are of another mixture for each number, and should choose nothing
        return self._made(output, "train", "--config", file) / "last"

    def _tables(self, policies: Sequence[object], name: str) -> NDArray[np.float64]:
        """Successes (seeds, layouts)."""
        args, rows = self.args, []
        for number, policy in enumerate(policies):
            out = self.out / "evaluations" / f"{name}_{number}"
            how = ["--episodes", args.episodes, "--seed", args.evaluation_seed, "--workers", args.workers]
            self._made(out, "eval", args.suite, "--task", args.task, *how, "--policy", policy, "--out", out)
            rows.append([episode.success for episode in Results.read(out).scored])
        return np.array(rows, np.float64)

    def _table(self, tables: dict[str, NDArray[np.float64]]) -> str:
        before, none = tables["before"], tables["none_0"]
        lines = [
            f"{len(self.args.seeds)} training seeds of {self.args.steps} steps, {self.args.episodes} layouts.",
            "",
            "| episodes | corrected | plain demonstrations | corrected above plain, points |",
            "|---|---|---|---|",
            f"| the policy itself | {_percent(rate([before]))} | | |",
            f"| 0 | {_percent(rate([none]))} | the same | |",
        ]
        for count in self.counts:
            corrected, plain = (tables[f"{kind}_{count}"] for kind in KINDS)
            above = difference([plain], [corrected])
            text = f"{100 * above.mean:+.0f} ({100 * above.low:+.0f} to {100 * above.high:+.0f})"
            lines.append(f"| {count} | {_percent(rate([corrected]))} | {_percent(rate([plain]))} | {text} |")
        return "\n".join(lines) + "\n"


def _percent(found: Estimate) -> str:
    return f"{100 * found.mean:.0f}% ({100 * found.low:.0f} to {100 * found.high:.0f})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True, help="the policy that is corrected, and that trainings begin from")
    parser.add_argument("--dataset", type=Path, required=True, help="what it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--suite", default=DEFAULT_SUITE)
    parser.add_argument("--task", required=True, help="of the suite, which --policy was trained on")
    parser.add_argument("--recipe", type=Path, help="what it was trained with; the default is the suite's for studies")
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100], help="numbers of episodes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--steps", type=int, default=500, help="of each training")
    parser.add_argument("--weight", type=float, default=4.0, help="of the expert's steps in corrected episodes")
    parser.add_argument("--episodes", type=int, default=100, help="of each evaluation")
    parser.add_argument("--evaluation-seed", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that record or evaluate")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    table = Experiment(args).run()
    (args.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
