"""Stands in for ``lavla`` in tests of what a study runs: stages take no time, and their outcome is a function of what
they are given.

``QUICK_JOURNAL`` is a file that gets a line for every command. ``QUICK_DATA`` is what a converted dataset holds.
``QUICK_FAULT`` = ``kill:N`` kills the study at its N-th command, ``interrupt:N`` is Ctrl-C then. Policies of seed 7
diverge.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import yaml


def main(words: list[str]) -> int:
    journal = Path(os.environ["QUICK_JOURNAL"])
    with journal.open("a") as file:
        file.write(" ".join(words) + "\n")
    if words[0] == "record":
        bags = Path(words[words.index("--out") + 1])
        if bags.exists():
            print(f"{bags} holds recorded episodes already")
            return 1
        bags.mkdir(parents=True)
    kind, _, number = os.environ.get("QUICK_FAULT", "").partition(":")
    if kind and len(journal.read_text().splitlines()) == int(number):
        os.kill(os.getppid(), {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}[kind])
        return 0  # without having done anything but recorded
    config = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text()) if "--config" in words else {}
    if words[0] == "train":
        return train(config)
    if words[:2] == ["latent", "train"]:
        Path(config["output"], "model").mkdir(parents=True, exist_ok=True)
    if words[0] == "convert":
        convert(Path(words[words.index("--out") + 1]))
    if words[0] == "eval":
        evaluate(words, Path(words[words.index("--out") + 1]))
    return 0


def convert(out: Path) -> None:
    for name, text in (("meta/info.json", '{"total_frames": 1000}'), ("data/file.parquet", os.environ["QUICK_DATA"])):
        out.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        out.joinpath(name).write_text(text)


def train(config: dict) -> int:
    if config["seed"] == 7:
        print("lavla train: step 3: the loss is nan, the gradient norm nan. It is so for every sample")
        return 3
    best = Path(config["output"], "best")
    best.mkdir(parents=True, exist_ok=True)
    best.joinpath("config.yaml").write_text(
        yaml.safe_dump(
            {
                "strategy": config["policy"]["strategy"],
                "seed": config["seed"],
                "training": {"step": config["steps"], "validation": {"mse": 0.5}},
            }
        )
    )
    return 0


def evaluate(words: list[str], out: Path) -> None:
    """LA-Tok succeeds in about 9 of 10 layouts, all others in 4. Written by hand: nothing slow is imported."""
    policy = yaml.safe_load(Path(words[words.index("--policy") + 1], "config.yaml").read_text())
    share = 9 if policy["strategy"]["name"] == "la_tok" else 4
    episodes = []
    for i in range(int(words[words.index("--episodes") + 1])):
        success = hashlib.sha256(f"{policy['seed']} {i}".encode()).digest()[0] % 10 < share
        row = {"index": i, "trial": i, "seed": 1, "initial_state": f"state{i}", "success": success, "length_steps": 9}
        episodes.append({**row, "task": words[words.index("--task") + 1], "score": float(success)})
    found = {
        "schema": 2, "suite": words[1], "task": episodes[0]["task"], "policy": "p", "contract_hash": "c",
        "settings": {}, "episodes": episodes, "assets": {}, "comparability": {"statement": "", "comparable": False},
        "versions": {}, "method": policy["strategy"]["name"], "wall_s": 1.0, "simulated_s": 1.0,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    out.joinpath("results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
