"""Two processes on CPUs, started by `accelerate launch` as a user would, train what one does: either latent model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from moving_square import SMALL, square_contract, write_squares
from records import load_training_record
from safetensors.torch import load_file

from lavla_ros.config import to_plain
from lavla_ros.resources import config_path
from training.latent_actions.action_config import ActionLamConfig, ActionLamTrainConfig
from training.latent_actions.action_train import train_action_lam
from training.latent_actions.codebook_config import LatentDataConfig
from training.latent_actions.image_config import ImageDataConfig, ImageLamTrainConfig
from training.latent_actions.image_train import train_image_lam

pytestmark = pytest.mark.long

STEPS = 12
RUN = {"steps": STEPS, "batch_size": 16, "learning_rate": 3e-3, "log_every": 1, "validate_every": 6, "save_every": 6}


def configurations(folder: Path, name: str) -> tuple[ActionLamTrainConfig, ImageLamTrainConfig]:
    """Codebooks that are restarted on the way, masks, and an action head that knows few of the actions."""
    data = {"datasets": (folder / "data",), "contract": str(folder / "contract.yaml"), "validation_fraction": 0.2}
    run = RUN | {"threads": 1, "device": "cpu"}
    action = ActionLamConfig(width=16, feedforward=24, decoder_width=24, codebook_size=8, codebook_decay=0.8)
    return (
        ActionLamTrainConfig(output=folder / name / "action", model=action, data=LatentDataConfig(**data), **run),
        ImageLamTrainConfig(
            output=folder / name / "image",
            stage_one_steps=STEPS,
            warmup_steps=3,
            action_fraction=0.3,
            model=replace(SMALL, restart_below=0.95),
            data=ImageDataConfig(**data),
            **run,
        ),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """``alone`` and ``together`` hold the runs of one and of two processes."""
    folder = tmp_path_factory.mktemp("latent")
    write_squares(folder / "data", (14, 12, 9, 13, 11, 12, 14, 12))
    (folder / "contract.yaml").write_text(yaml.safe_dump(square_contract().to_dict()))
    files = [folder / "action.yaml", folder / "image.yaml"]
    for file, config in zip(files, configurations(folder, "together"), strict=True):
        file.write_text(yaml.safe_dump(to_plain(config)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config_path("accelerate/cpu_2.yaml")]
    command = [*launch, "--main_process_port=29651", Path(__file__).parent / "both_models.py", *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("WORLD_SIZE", None)
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    action, image = configurations(folder, "alone")
    train_action_lam(action)
    train_image_lam(image)
    return folder


def logged(run: Path, key: str) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize(
    ("model", "codebook"), [("action", ""), ("image/stage1", "_environment"), ("image", "_controllable")]
)
def test_two_processes_compute_what_one_does(runs, model, codebook):
    """The same losses, codes in use, figures of the held-out episodes and weights, but for the rounding of sums."""
    alone, together = runs / "alone" / model, runs / "together" / model
    for key in ("train/loss", f"codebook{codebook}/perplexity"):
        one, two = logged(alone, key), logged(together, key)
        assert len(one) == STEPS
        np.testing.assert_allclose(one, two, rtol=1e-4, err_msg=key)
    records = [load_training_record(run / "model") for run in (alone, together)]
    assert records[0]["evaluation"] == pytest.approx(records[1]["evaluation"], rel=1e-3)
    one, two = (load_file(run / "resume/state.safetensors") for run in (alone, together))
    assert one.keys() == two.keys()
    for key in one:
        if not key.startswith("optimizer/") and one[key].ndim > 1:
            difference = (one[key] - two[key]).norm() / one[key].norm()
            assert difference < 1e-3, (key, float(difference))
