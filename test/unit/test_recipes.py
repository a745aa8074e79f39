"""The shipped recipes are read, fit their contracts, and say nothing that the file they extend has said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lavla_ros.config import read_config, read_plain
from lavla_ros.contract import load_contract
from lavla_ros.resources import share_path
from lavla_ros.yaml_text import load_yaml
from training.config import TrainConfig
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.image_config import ImageLamTrainConfig

CONFIG = share_path() / "config"
KINDS = {"training": TrainConfig, "action": ActionLamTrainConfig, "image": ImageLamTrainConfig}
FILES = sorted([*CONFIG.glob("training/*.yaml"), *CONFIG.glob("latent/*.yaml"), *CONFIG.glob("contracts/*.yaml")])
RECIPES = [file for file in FILES if file.parent.name != "contracts"]


def leaves(data: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.mark.parametrize("file", [file for file in FILES if "extends:" in file.read_text()], ids=lambda file: file.stem)
def test_a_file_does_not_repeat_the_one_that_it_extends(file: Path) -> None:
    own = load_yaml(file.read_text(encoding="utf-8"))
    base = dict(leaves(read_plain(CONFIG / f"{own.pop('extends')}.yaml")))
    assert [path for path, value in leaves(own) if path in base and base[path] == value] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_leaves_to_the_contract_what_the_contract_says(file: Path) -> None:
    kind = file.parent.name if file.parent.name in KINDS else file.stem.split("_")[0]
    config = read_config(KINDS[kind], file)
    contract = load_contract(config.data.contract)
    if isinstance(config, ActionLamTrainConfig):
        assert config.model.chunk_size is None
    if isinstance(config, ImageLamTrainConfig):
        assert config.model.cameras == () and config.model.cameras_of(contract) == contract.camera_names[:1]


@pytest.mark.parametrize("name", ["jaka", "libero", "libero_tiny", "robotwin", "robotwin_tiny", "tabletop_tiny"])
def test_latent_action_models_and_policies_of_the_same_data_hold_out_the_same_episodes(name: str) -> None:
    """For ``data.fraction`` to mean the same episodes in all of them."""
    latent = name.replace("tabletop_tiny", "tabletop")
    files = {"training": name, "action": f"action_{latent}", "image": f"image_{latent}"}
    splits = set()
    for kind, file in files.items():
        folder = "training" if kind == "training" else "latent"
        config = read_config(KINDS[kind], CONFIG / folder / f"{file}.yaml")
        splits.add((config.seed, config.data.validation_fraction))
    assert len(splits) == 1
