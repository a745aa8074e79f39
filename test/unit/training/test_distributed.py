"""Two processes on CPUs, started by `accelerate launch` as a user would: the same training, killed and resumed too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_world import PHRASINGS, World, qwen_run, small_config, world_contract, write_contract

from lavla_ros.config import to_plain
from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.resources import config_path
from training.config import DataConfig, TrainConfig
from training.loop import Trainer, TrainingError, build_accelerator
from training.policy_task import PolicyTask
from training.train import train

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("WORLD_SIZE", None)


class Quiet:
    """A reporter that says nothing."""

    def step(self, step, figures) -> None: ...

    def message(self, text: str) -> None: ...


def launch(config: TrainConfig, folder: Path, *, port: int) -> subprocess.Popen[str]:
    file = folder / f"{config.output.name}.yaml"
    file.write_text(yaml.safe_dump(to_plain(config)))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    accelerate += [str(config_path("accelerate/cpu_2.yaml")), "--main_process_port", str(port)]
    command = [*accelerate, "-m", "training.train", "--config", str(file)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def family(pid: int) -> list[int]:
    """A process and all that it started; the launcher's workers are sessions of their own."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [pid, *(member for child in children for member in family(child))]


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return out


def losses(run: Path) -> dict[int, float]:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    World(folder / "data", phrasings=PHRASINGS).write(world_contract())
    return folder


def config(place: Path, name: str) -> TrainConfig:
    data = DataConfig(
        dataset=place / "data",
        contract=str(write_contract(place)),
        validation_fraction=0.3,
        cache_dir=place / "cache",
    )
    return small_config(place / name, data=data, steps=40, save_every=7, validate_every=10)


@pytest.fixture(scope="module")
def together(place) -> Path:
    """The run of two processes that nothing happens to."""
    out = finish(launch(config(place, "together"), place, port=29611))
    assert out.count("step 40/40") == 2, "one process reports: its last step and its last validation"
    return place / "together"


def test_two_processes_compute_what_one_does(place, together):
    """The same global batch gives the same losses and parameters, but for the rounding of sums.

    Adam divides by gradient magnitudes, so that a parameter whose gradient is but rounding noise (the bias of
    attention keys: a softmax does not change with it) moves at random. The others agree to 1e-4 of their size.
    """
    train(config(place, "alone"))
    one, two = losses(place / "alone"), losses(together)
    assert list(one) == list(two) == list(range(1, 41))
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-4)
    alone, both = (load_file(run / "resume/state.safetensors") for run in (place / "alone", together))
    assert alone.keys() == both.keys()
    for key in alone:
        if key.startswith("parameter/") and alone[key].ndim > 1:
            difference = (alone[key] - both[key]).norm() / alone[key].norm()
            assert difference < 1e-4, (key, float(difference))
    validated = [
        [line["validation/mse"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
         if "validation/mse" in line]
        for run in (place / "alone", together)
    ]  # fmt: skip
    np.testing.assert_allclose(*validated, rtol=1e-4)
    assert len(validated[0]) == 4


def test_two_processes_killed_while_they_train_resume_exactly(place, together):
    killed = config(place, "killed")
    process = launch(killed, place, port=29621)
    deadline = time.monotonic() + 120
    while max(losses(killed.output), default=0) < 9 and time.monotonic() < deadline:
        time.sleep(0.002)
    members = family(process.pid)
    assert len(members) >= 3
    for member in members:
        os.kill(member, signal.SIGKILL)
    process.communicate()
    done = json.loads((killed.output / "resume/progress.json").read_text())["step"]
    assert 0 < done < 40, "killed on the way"
    shutil.copytree(killed.output, place / "onward")
    out = finish(launch(killed, place, port=29631))
    assert f"resumed at step {done} of 40" in out
    assert losses(killed.output) == losses(together)
    one, two = (load_file(run / "resume/state.safetensors") for run in (together, killed.output))
    assert all(torch.equal(one[key], two[key]) for key in one)

    # what was saved is whole: one process goes on with it as well
    train(config(place, "onward"))
    onward, both = losses(place / "onward"), losses(together)
    assert list(onward) == list(both)
    assert [onward[step] for step in range(1, done + 1)] == [both[step] for step in range(1, done + 1)]
    np.testing.assert_allclose(list(onward.values()), list(both.values()), rtol=1e-4)


def test_a_launch_that_accelerate_does_not_join_is_refused(place):
    os.environ["WORLD_SIZE"] = "3"
    try:
        with pytest.raises(TrainingError, match="3 processes were launched, but accelerate sees 1"):
            build_accelerator(config(place, "refused"))
    finally:
        del os.environ["WORLD_SIZE"]


@pytest.mark.parametrize("name", ["cpu_2", "gpus", "machines", "fsdp"])
def test_accelerate_reads_our_launch_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(config_path(f"accelerate/{name}.yaml")))
    assert found.num_processes >= 2
    if name == "fsdp":
        assert found.fsdp_config["fsdp_version"] == 2
        from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

        from lavla_ros.policy import head

        wrapped = found.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
        assert all(hasattr(qwen, name) or hasattr(head, name) for name in wrapped), wrapped


def test_fsdp_divides_the_model_and_computes_what_one_process_does(tmp_path):
    """Two processes that hold half of each parameter: frozen weights, LoRA and head; accumulation, checkpointing,
    validation on averaged weights, and a resume between. Saved is the same as without, whole."""
    config, contract, data = qwen_run(tmp_path, "alone")
    Trainer(PolicyTask(config, contract, data), Quiet()).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29641"]
    command += [str(Path(__file__).parent / "fsdp_on_cpu.py"), str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("resumed at step 1 of 3") == 2
    one, two = losses(tmp_path / "alone"), losses(tmp_path / "divided")
    assert list(one) == list(two) == [1, 2, 3]
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-5)
    alone, divided = (load_file(tmp_path / run / "resume/state.safetensors") for run in ("alone", "divided"))
    assert alone.keys() == divided.keys()
    for key in alone:
        assert alone[key].shape == divided[key].shape
        if key.startswith(("parameter/", "ema/")) and alone[key].ndim > 1:
            difference = (alone[key] - divided[key]).norm() / alone[key].norm().clamp(min=1e-3)
            assert difference < 1e-3, (key, float(difference))
    load_checkpoint(tmp_path / "divided/best")
