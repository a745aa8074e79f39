"""A protocol, and models that are no more than their contract."""

from __future__ import annotations

import shutil
from pathlib import Path

from lavla_ros.resources import config_path
from lavla_ros.yaml_text import dump_yaml, load_yaml


def model(folder: Path, name: str, **contract: object) -> Path:
    """What is read of a checkpoint before it is run. ``contract``: what differs from the arm's."""
    made = folder / name
    made.mkdir(parents=True)
    shutil.copy(config_path("contracts/jaka_minicobo.yaml"), made / "contract.yaml")
    if contract:
        plain = load_yaml((made / "contract.yaml").read_text()) | contract
        (made / "contract.yaml").write_text(dump_yaml(plain))
    (made / "config.yaml").write_text(f"policy: {{strategy: {{name: {name}}}}}\n")
    return made


def protocol(folder: Path, **changes: object) -> Path:
    """Two models, a stack and a wiping task; three rollouts of each."""
    for name in ("one", "two"):
        if not (folder / name).exists():
            model(folder, name)
    stack = {"rubric": "stack", "bowls": 3, "instruction": "stack the bowls", "rollouts": 2}
    wipe = {"rubric": "wipe", "instruction": "wipe the dark stain", "rollouts": 1}
    data = {
        "models": {
            "one": {"policy": str(folder / "one"), "method": "baseline"},
            "two": {"policy": str(folder / "two"), "method": "la_tok"},
        },
        "tasks": {"stack_3_bowls": stack, "wipe_stain": wipe},
        **changes,
    }
    file = folder / "protocol.yaml"
    file.write_text(dump_yaml(data))
    return file
