"""docs/how_to/add_a_camera.md: a third camera by a contract and a stack from outside the tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_world import SIZE, small_config
from synthetic_bags import make_bag, picture
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.bringup.stack import load_stack
from lavla_ros.contract import load_contract
from lavla_ros.policy.images import ImageSizeError
from lavla_ros.policy.model import VlaBatch
from training.data import BatchMaker
from training.train import train

STACK = """
description: Three cameras and a recorder.
arguments:
  contract: {default: contract.yaml, description: Contract.}
processes:
  - name: camera
    node: lavla_ros.nodes.camera_node
    parameters: {contract: "${contract}", sources: [side=/dev/video4]}
  - name: recorder
    node: lavla_ros.nodes.recorder_node
    parameters: {contract: "${contract}"}
"""


def write_contract(folder: Path, **side: int) -> Path:
    """A small contract with a third camera."""
    contract = small_contract(size=2 * SIZE)
    camera = {"name": "side", "topic": "/camera/side/image_raw", "width": 2 * SIZE, "height": 2 * SIZE, **side}
    plain = contract.to_dict()
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump({**plain, "name": "three", "cameras": [*plain["cameras"], camera]}))
    return path


def test_a_third_camera_is_recorded_converted_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_contract(tmp_path)
    (tmp_path / "stack.yaml").write_text(STACK)
    stack = load_stack(tmp_path / "stack.yaml", {"contract": str(file)}, run_dir=tmp_path)
    assert {process.parameters["contract"] for process in stack.processes} == {str(file)}
    contract = load_contract(str(file))
    assert contract.camera_names == ("front", "wrist", "side")
    for episode in range(3):
        make_bag(tmp_path / "bags", contract, 8, episode=episode)
    data = str(tmp_path / "data")
    cli.main(["convert", str(tmp_path / "bags"), "--out", data, "--contract", str(file), "--jobs", "1"])

    batches: list[VlaBatch] = []
    make = BatchMaker.__call__

    def seen(self: BatchMaker, *read: Any) -> VlaBatch:
        batches.append(make(self, *read))
        return batches[-1]

    monkeypatch.setattr(BatchMaker, "__call__", seen)
    config = small_config(tmp_path / "run", steps=1, validate_every=1, save_every=1)
    assert train(replace(config, data=replace(config.data, dataset=Path(data), contract=str(file)))).is_dir()
    images = batches[0].images.numpy()
    assert images.shape == (config.batch_size, 3, SIZE, SIZE, 3)
    blue = images[..., 2].mean((2, 3))  # of the test's pictures it says which camera they are of
    expected = [picture(SIZE, 0, 0, camera)[..., 2].mean() for camera in range(3)]
    np.testing.assert_allclose(blue, np.broadcast_to(expected, blue.shape), atol=12)


@pytest.mark.parametrize(("side", "size"), [({"width": 80}, "80 x 64"), ({"width": 48, "height": 48}, "48 x 48")])
def test_a_camera_of_an_unfit_size_is_refused_before_anything_is_read(
    tmp_path: Path, side: dict[str, int], size: str
) -> None:
    config = small_config(tmp_path / "run")
    file = write_contract(tmp_path, **side)
    config = replace(config, data=replace(config.data, dataset=tmp_path / "not there yet", contract=str(file)))
    with pytest.raises(ImageSizeError, match=rf"contract 'three' .*'side': '{size}'.* multiple of {SIZE}"):
        train(config)
