"""The trainer on a small learnable world: it learns, it resumes exactly, it stops when it must."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from small_world import (
    HORIZON,
    INSTRUCTION,
    PHRASINGS,
    SIZE,
    World,
    load_world,
    qwen_run,
    small_config,
    source,
    world_contract,
    write_contract,
)

from benchmarks.kernels import count
from lavla_ros.config import ConfigError, read_config, to_plain
from lavla_ros.contract import Contract, ContractError, Observation
from lavla_ros.policy import base_model, device
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.checkpoint import CheckpointError, load_checkpoint
from lavla_ros.policy.config import ActionCodingConfig, BackboneConfig, HeadConfig, StrategyConfig
from lavla_ros.policy.device import DeviceError
from lavla_ros.policy.folder import fingerprint
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import compute_stats
from lavla_ros.policy.policy import load_policy
from lavla_ros.policy.prompt import train_tokenizer
from lavla_ros.policy.strategies import STRATEGIES, BackboneShape, build_strategy, label_specs
from lavla_ros.resources import config_path
from training import resume_state, system_resources
from training.config import AugmentConfig, DataConfig, MixturePart, OptimConfig, TrainConfig
from training.data import LoadedData, Source, load_data, require_one_teacher
from training.dataset import EpisodeDataset, layout
from training.latent_actions.action_config import ActionLamConfig, ActionLamTrainConfig
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import content_hash, save_latent_model
from training.latent_actions.codebook_config import LatentDataConfig
from training.latent_actions.image_config import (
    FeatureConfig,
    ImageDataConfig,
    ImageLamConfig,
    ImageLamTrainConfig,
    TextConfig,
)
from training.latent_actions.labelling import label
from training.logs import require_trackers
from training.loop import DivergedError, Trainer, TrainingError
from training.policy_task import PolicyTask, training_stats
from training.samples import DataError
from training.system_resources import RoomError
from training.task_pool import Workers
from training.train import main, train

pytestmark = pytest.mark.long

HERE = Path(__file__).parent


class Log:
    """Keeps what the trainer reports."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.messages: list[str] = []

    def step(self, step, figures) -> None:
        self.figures.append((step, dict(figures)))

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def alone():
    """One thread; and accelerate forgets the precision of the last test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return world_contract()


@pytest.fixture(scope="module")
def data(contract, tmp_path_factory) -> LoadedData:
    return load_world(contract, tmp_path_factory.mktemp("c"))


def test_learns_and_the_policy_reproduces_a_demonstration(contract, tmp_path):
    world = World(tmp_path / "world", episodes=100, length=6)
    data = load_world(contract, tmp_path, world)
    config = small_config(
        tmp_path / "run",
        steps=150,
        batch_size=32,
        save_every=150,
        validate_every=50,
        trackers=("tensorboard",),
        augment=AugmentConfig(),
        optim=OptimConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=10, gradient_clip=0.1, ema_decay=0.9),
    )
    log = Log()
    best = Trainer(PolicyTask(config, contract, data), log).run()
    mse = [f["validation_mse"] for _, f in log.figures if "validation_mse" in f]
    assert mse[-1] < 0.15 * mse[0]
    run = {p.name for p in (tmp_path / "run").iterdir()}
    assert run >= {"best", "last", "resume", "tensorboard", "config.yaml", "metrics.jsonl"}
    modes = {file.stat().st_mode for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert modes == {(best / "config.yaml").stat().st_mode}, "whoever may read a policy's settings may read its weights"
    policy = load_policy(best)
    errors = []
    for index in range(0, len(world), 12):
        image = world.image(index)
        observation = Observation(
            stamp_ns=5, images={"front": image, "wrist": image}, state=world.states[index], instruction=INSTRUCTION
        )
        chunk = policy.predict(observation)
        errors.append(np.abs(chunk.actions_HA - data.chunks(np.array([index]), HORIZON)[0][0])[:, 0].max())
    assert np.median(errors) < 0.03  # of a range of ±0.25 rad


# ------------------------------------------------------------------ resuming


def lines(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "samples_per_s" not in key} for line in found]


def run_configs(kind: str, folder: Path) -> dict[str, TrainConfig | ActionLamTrainConfig | ImageLamTrainConfig]:
    """Two runs of the same training on a dataset on disk."""
    contract, dataset = str(write_contract(folder)), World(folder / "data").write(world_contract())
    if kind == "policy":
        data = DataConfig(
            dataset=dataset, contract=contract, validation_fraction=0.1, cache_dir=folder / "cache", frames="file"
        )
        base = small_config(folder, save_every=4, validate_every=3, data=data)
    else:
        common = {"batch_size": 8, "threads": 1, "trackers": (), "log_every": 1, "save_every": 2, "validate_every": 3}
        features = FeatureConfig(kind="random", image_size=SIZE, patch_size=8, width=16, depth=1, heads=2)
        base = {
            "action": ActionLamTrainConfig(
                **common,
                steps=6,
                learning_rate=1e-2,
                model=ActionLamConfig(
                    chunk_size=HORIZON, width=16, heads=2, feedforward=16, decoder_width=16, codebook_size=8
                ),
                data=LatentDataConfig(datasets=(dataset,), contract=contract, validation_fraction=0.2),
            ),
            "image": ImageLamTrainConfig(
                **common,
                steps=4,
                stage_one_steps=3,
                warmup_steps=1,
                learning_rate=1e-2,
                model=ImageLamConfig(
                    delta=2, width=16, encoder_blocks=1, decoder_blocks=1, heads=2, dropout=0.1, latent_width=8,
                    features=features, text=TextConfig(kind="hashed", width=12),
                ),
                data=ImageDataConfig(datasets=(dataset,), contract=contract, validation_fraction=0.2),
            ),
        }[kind]  # fmt: skip
    return {name: replace(base, output=folder / name) for name in ("whole", "killed")}


DEATHS = {
    "policy": "step:0-3 rename:1-3 step:4-7 rename:1 rename:2 rename:4 rename:6 step:8-11",
    "action": "step:0-1 rename:1 step:2-4 rename:1-2 step:5 rename:3",
    "image": "stage1:0-2 rename:2-3 killed:0-2 rename:1-2 killed:3 rename:3",
}


def points(deaths: str) -> list[str]:
    """``step:0-2 rename:1`` → step:0, step:1, step:2, rename:1."""
    found = []
    for word in deaths.split():
        what, _, numbers = word.partition(":")
        first, _, last = numbers.partition("-")
        found += [f"{what}:{n}" for n in range(int(first), int(last or first) + 1)]
    return found


@pytest.mark.parametrize(("kind", "runs"), [("policy", {"": 12}), ("action", {"": 6}), ("image", {"": 4, "stage1": 3})])
def test_a_run_killed_before_any_step_and_within_saving_has_the_losses_of_one_that_was_not(tmp_path, kind, runs):
    """SIGKILL to a real process before every step, and before the renames that saving consists of."""
    files = []
    for name, config in run_configs(kind, tmp_path).items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(to_plain(config)))
    command = [sys.executable, str(HERE / "dying_runs.py"), kind, *map(str, files), *points(DEATHS[kind]), "end"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for run, steps in runs.items():
        whole, killed = (tmp_path / name / run for name in ("whole", "killed"))
        assert len([line for line in lines(whole) if "train/loss" in line]) == steps
        assert lines(killed) == lines(whole)
        saved = sorted(str(file.relative_to(whole)) for file in whole.rglob("*.safetensors"))
        assert saved == sorted(str(file.relative_to(killed)) for file in killed.rglob("*.safetensors"))
        assert "resume/state.safetensors" in saved and len(saved) >= 2
        for file in saved:
            one, two = load_file(whole / file), load_file(killed / file)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one), file


def test_resuming_continues_where_the_last_save_was(contract, tmp_path):
    data = load_world(contract, tmp_path, World(phrasings=PHRASINGS))
    whole = Trainer(PolicyTask(small_config(tmp_path / "whole"), contract, data), Log())
    whole.run()

    class Killed(Exception):
        pass

    class Dying(Trainer):
        def _train_step(self, *, stop):
            if self.step == 8:
                raise Killed
            return super()._train_step(stop=stop)

    with pytest.raises(Killed):
        Dying(PolicyTask(small_config(tmp_path / "killed"), contract, data), Log()).run()
    log = Log()
    # what changes no loss may be changed in between
    resumed = Trainer(PolicyTask(small_config(tmp_path / "killed", save_every=3, log_every=2), contract, data), log)
    resumed.run()
    assert log.messages == ["resumed at step 5 of 12"]
    assert resumed.losses == whole.losses[5:]
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    for name, value in whole.ema.tensors.items():
        assert torch.equal(value, resumed.ema.tensors[name]), name
    assert resumed.best == whole.best


def test_resume_refuses_another_configuration_and_names_it(contract, data, tmp_path, monkeypatch):
    config = small_config(tmp_path / "run", steps=2, save_every=1)
    Trainer(PolicyTask(config, contract, data), Log()).run()
    with pytest.raises(CheckpointError, match=r"settings\.seed: 0 → 1"):
        Trainer(PolicyTask(replace(config, seed=1), contract, data), Log()).run()
    other = replace(config.policy, actions=ActionCodingConfig(relative_actions=False))
    with pytest.raises(CheckpointError, match=r"policy\.actions\.relative_actions: True → False"):
        Trainer(PolicyTask(replace(config, policy=other), contract, data), Log()).run()
    monkeypatch.setattr("training.policy_task.OBJECTIVE", "sums")
    with pytest.raises(CheckpointError, match="objective: 'means' → 'sums'"):
        Trainer(PolicyTask(config, contract, data), Log()).run()
    monkeypatch.undo()
    changed = replace(data, states_NS=data.states_NS + 1)
    with pytest.raises(CheckpointError, match=r"other data \(data: "):
        Trainer(PolicyTask(config, contract, changed), Log()).run()
    with pytest.raises(TrainingError, match="holds a run already"):
        Trainer(PolicyTask(replace(config, resume=False), contract, data), Log()).run()
    (tmp_path / "run" / "resume" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="safetensors"):
        Trainer(PolicyTask(config, contract, data), Log()).run()


def test_a_run_of_before_a_setting_was_there_is_resumed_with_its_default(contract, data, tmp_path):
    config = small_config(tmp_path, steps=1)
    Trainer(PolicyTask(config, contract, data), Log()).run()
    file = tmp_path / "resume/progress.json"
    progress = json.loads(file.read_text())
    del progress["identity"]["settings"]["policy"]["backbone"]["chat"]
    file.write_text(json.dumps(progress))
    log = Log()
    Trainer(PolicyTask(config, contract, data), log).run()
    assert log.messages == ["resumed at step 1 of 1"]
    progress["identity"]["settings"]["policy"]["backbone"]["gone"] = 1
    file.write_text(json.dumps(progress))
    with pytest.raises(CheckpointError, match=r"settings\.policy\.backbone\.gone: 1 → None"):
        Trainer(PolicyTask(config, contract, data), Log()).run()


def test_a_run_can_be_made_longer_unless_its_schedule_depends_on_its_length(contract, data, tmp_path):
    def config(name, steps, schedule):
        optim = OptimConfig(learning_rate=2e-3, schedule=schedule, warmup_steps=4, decay_steps=4)
        return small_config(tmp_path / name, steps=steps, optim=optim)

    whole = Trainer(PolicyTask(config("whole", 6, "step"), contract, data), Log())
    whole.run()
    Trainer(PolicyTask(config("longer", 3, "step"), contract, data), Log()).run()
    longer = Trainer(PolicyTask(config("longer", 6, "step"), contract, data), Log())
    longer.run()
    assert longer.losses == whole.losses[3:]
    Trainer(PolicyTask(config("cosine", 1, "cosine"), contract, data), Log()).run()
    with pytest.raises(CheckpointError, match=r"settings\.steps: 1 → 2"):
        Trainer(PolicyTask(config("cosine", 2, "cosine"), contract, data), Log()).run()


def test_what_is_validated_is_what_is_saved(contract, data, tmp_path):
    class Seeing(PolicyTask):
        def evaluate(self, run):
            self.seen = {name: p.detach().clone() for name, p in run.parameters.items()}
            return super().evaluate(run)

    task = Seeing(small_config(tmp_path / "run", steps=2, half_checkpoints=True), contract, data)
    trainer = Trainer(task, Log())
    trainer.run()
    saved = load_file(tmp_path / "run/best/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}
    assert all(torch.equal(tensor.float(), task.seen[name]) for name, tensor in saved.items())
    assert any(not torch.equal(p, task.seen[name]) for name, p in trainer.parameters.items()), (
        "training goes on exactly"
    )


def test_sigterm_ends_the_run_after_the_step_with_everything_saved(contract, data, tmp_path):
    class Preempted(Trainer):
        def _train_step(self, *, stop):
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._train_step(stop=stop)

    before = signal.getsignal(signal.SIGTERM)
    Preempted(PolicyTask(small_config(tmp_path / "run"), contract, data), Log()).run()
    assert signal.getsignal(signal.SIGTERM) is before
    log = Log()
    resumed = Trainer(PolicyTask(small_config(tmp_path / "run"), contract, data), log)
    resumed.run()
    assert log.messages == ["resumed at step 5 of 12"]
    whole = Trainer(PolicyTask(small_config(tmp_path / "whole"), contract, data), Log())
    whole.run()
    assert resumed.losses == whole.losses[5:]


def test_the_state_is_written_while_training_goes_on_and_is_that_of_its_step(contract, data, tmp_path, monkeypatch):
    save, written = resume_state.save_state, {"slow": [], "at once": []}

    def slow(path, progress, tensors):
        deadline = time.monotonic() + 30
        while name == "slow" and trainer.step < min(progress.step + 3, 12):
            assert time.monotonic() < deadline, "training waits for the state to be written"
            time.sleep(0.001)
        save(path, progress, tensors)
        written[name].append((progress.step, load_file(path / "state.safetensors")))

    monkeypatch.setattr(resume_state, "save_state", slow)
    for name in written:
        if name == "at once":  # there is no memory for a copy
            monkeypatch.setattr(resume_state, "available_memory", lambda: 1)
        trainer = Trainer(PolicyTask(small_config(tmp_path / name), contract, data), Log())
        trainer.run()
    assert [step for step, _ in written["slow"]] == [5, 10, 12]
    for (_, one), (_, two) in zip(*written.values(), strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_state_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(contract, data, tmp_path, monkeypatch):
    save = resume_state.save_state

    def full(path, progress, tensors):
        if progress.step > 5:
            raise OSError("no space left on device")
        save(path, progress, tensors)

    monkeypatch.setattr(resume_state, "save_state", full)
    with pytest.raises(OSError, match="no space left"):
        Trainer(PolicyTask(small_config(tmp_path / "run"), contract, data), Log()).run()
    assert json.loads((tmp_path / "run/resume/progress.json").read_text())["step"] == 5


def test_max_minutes_stops_early_and_saves(contract, data, tmp_path):
    Trainer(PolicyTask(small_config(tmp_path / "run", max_minutes=0.0), contract, data), Log()).run()
    assert load_checkpoint(tmp_path / "run" / "best").training["step"] == 1


# ------------------------------------------------------------------ one step


def test_accumulation_changes_nothing_but_memory(contract, data, tmp_path):
    plain = small_config(tmp_path / "a", steps=3)  # with augmentation: what happens to a sample stays the same
    once = Trainer(PolicyTask(plain, contract, data), Log())
    once.run()
    parts = Trainer(PolicyTask(replace(plain, output=tmp_path / "b", accumulation=4), contract, data), Log())
    parts.run()
    np.testing.assert_allclose(once.losses, parts.losses, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing_but_memory(contract, data, tmp_path):
    plain = small_config(tmp_path / "a", steps=3)
    kept = Trainer(PolicyTask(plain, contract, data), Log())
    kept.run()
    recomputed = Trainer(
        PolicyTask(replace(plain, output=tmp_path / "b", gradient_checkpointing=True), contract, data), Log()
    )
    assert recomputed.module.backbone.vlm.language_model.gradient_checkpointing
    recomputed.run()
    assert recomputed.losses == kept.losses
    for name, parameter in kept.parameters.items():
        assert torch.equal(parameter, recomputed.parameters[name]), name


def test_bfloat16_trains_with_float32_weights(contract, data, tmp_path):
    trainer = Trainer(PolicyTask(small_config(tmp_path / "half", precision="bfloat16", steps=3), contract, data), Log())
    trainer.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = Trainer(PolicyTask(small_config(tmp_path / "full", steps=3), contract, data), Log())
    exact.run()
    assert all(p.dtype == torch.float32 for p in trainer.parameters.values())
    np.testing.assert_allclose(trainer.losses, exact.losses, rtol=0.05)
    assert trainer.losses != exact.losses


def test_weight_decay_spares_vectors_embeddings_and_queries(contract, data, tmp_path):
    config = small_config(tmp_path / "run")
    config = replace(config, policy=replace(config.policy, head=HeadConfig(heads=2, step_positions=True)))
    trainer = Trainer(PolicyTask(config, contract, data), Log())
    matrices, spared = trainer.task.optimizer(trainer.parameters).param_groups
    assert matrices["weight_decay"] == 0.01
    assert spared["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in matrices["params"])
    names = {id(p): name for name, p in trainer.parameters.items()}
    tables = {names[id(p)] for p in spared["params"] if p.ndim > 1}
    modules = dict(trainer.module.named_modules())
    assert tables >= {"head.queries", "head.step_keys", "backbone.placeholder_embeddings.weight"}
    for name, parameter in trainer.parameters.items():  # what is looked up, and nothing that multiplies
        if parameter.ndim > 1 and not name.startswith("head."):
            assert isinstance(modules[name.rpartition(".")[0]], torch.nn.Embedding) == (name in tables), name


def test_diverged_weights_stop_the_run_and_keep_what_was_saved(contract, data, tmp_path):
    config = small_config(tmp_path / "run", steps=6, save_every=2)

    class Diverging(Trainer):
        def _train_step(self, *, stop):
            if self.step == 3:
                with torch.no_grad():
                    self.module.head.queries[0, 0] = float("nan")
            return super()._train_step(stop=stop)

    with pytest.raises(DivergedError, match=r"step 3: the loss is nan.*every sample of the batch.*learning_rate"):
        Diverging(PolicyTask(config, contract, data), Log()).run()
    assert load_checkpoint(tmp_path / "run" / "last").training["step"] == 2
    log = Log()
    Trainer(PolicyTask(config, contract, data), log).run()  # the state is good: the run goes on from it
    assert log.messages == ["resumed at step 2 of 6"]


def test_a_sample_with_a_loss_that_is_not_finite_is_named(contract, data, tmp_path):
    trainer = Trainer(PolicyTask(small_config(tmp_path / "run", batch_size=80, accumulation=2), contract, data), Log())
    bad = int(trainer.task.train_rows[13])
    trainer.task.data.actions_NA[bad, 0], kept = np.nan, trainer.task.data.actions_NA[bad, 0]
    try:
        # chunks of this and the steps before it, down to the episode's first, have the value
        first = bad - min(HORIZON - 1, bad % 10)
        expected = f"samples {list(range(first, bad + 1))}".replace("[", r"\[").replace("]", r"\]")
        with pytest.raises(TrainingError, match=f"step 0: .*{expected}.*sample {first} of .*world") as error:
            trainer.run()
        assert f"step {first % 10} of its episode" in str(error.value)
    finally:
        trainer.task.data.actions_NA[bad, 0] = kept


def test_a_step_waits_for_nothing_that_the_device_computes(contract, data, tmp_path):
    trainer = Trainer(PolicyTask(small_config(tmp_path / "run", augment=AugmentConfig()), contract, data), Log())
    trainer._train_step(stop=False)  # makes what depends on shapes alone
    trainer.step = 1
    counts = count(lambda: trainer._train_step(stop=False))
    assert counts.kernels["_fused_adamw_"] == 2 and not counts.waits, counts.waits


def test_what_was_broken_is_found_a_step_later_with_the_weights_and_the_samples_that_it_had(contract, data, tmp_path):
    config = small_config(tmp_path / "run", log_every=100, validate_every=100, save_every=100)
    trainer = Trainer(PolicyTask(config, contract, data), Log())
    early = set(trainer._rows(0, 0)[1].tolist())
    bad = next(row for row in trainer._rows(1, 0)[1].tolist() if not early & set(range(row - HORIZON + 1, row + 1)))
    trainer.task.data.actions_NA[bad, 0], kept = np.nan, trainer.task.data.actions_NA[bad, 0]
    try:
        with pytest.raises(TrainingError, match=rf"step 1: the loss is nan.*samples \[.*\b{bad}\b"):
            trainer.run()
    finally:
        trainer.task.data.actions_NA[bad, 0] = kept
    assert trainer.step == 3 and len(trainer.losses) == 1
    good = Trainer(PolicyTask(replace(config, output=tmp_path / "good"), contract, data), Log())
    good._train_step(stop=False)
    assert all(torch.equal(p, good.parameters[name]) for name, p in trainer.parameters.items())
    steps = {float(values["step"]) for values in trainer.optimizer.state.values()}
    assert steps == {1.0} and not (tmp_path / "run/resume").exists()


def test_gradients_that_are_not_finite_stop_the_run_before_they_are_applied(contract, data, tmp_path):
    trainer = Trainer(PolicyTask(small_config(tmp_path / "run"), contract, data), Log())
    trainer.module.head.queries.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    with pytest.raises(TrainingError, match="Each sample's own loss is finite"):
        trainer.run()
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_a_pretrained_backbone_trains_its_adapters_with_and_without_checkpointing(tmp_path):
    """LoRA and the head learn, the backbone's own weights stay; checkpointing recomputes, and changes nothing."""
    config, large, data = qwen_run(tmp_path, "kept")
    kept = Trainer(PolicyTask(config, large, data), Log())
    before = {name: p.detach().clone() for name, p in kept.module.named_parameters()}
    kept.run()
    changed = {name for name, p in kept.module.named_parameters() if not torch.equal(p, before[name])}
    assert any("lora_B" in name and "visual" in name for name in changed)
    assert any("lora_B" in name and "language_model" in name for name in changed)
    assert any(name.startswith("head.") for name in changed)
    own = {name for name in before if name.startswith("backbone.vlm") and "lora_" not in name}
    assert own and not own & changed
    assert set(load_file(tmp_path / "kept/last/model.safetensors")) == set(before) - own
    recomputed = Trainer(
        PolicyTask(replace(config, output=tmp_path / "recomputed", gradient_checkpointing=True), large, data), Log()
    )
    recomputed.run()
    np.testing.assert_allclose(recomputed.losses, kept.losses, rtol=1e-6)
    base = tmp_path / "qwen/model.safetensors"  # the same model as far as its configuration says
    save_file({name: tensor * 1.5 for name, tensor in load_file(base).items()}, base, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"belongs to another configuration.*base: "):
        Trainer(PolicyTask(config, large, data), Log()).run()


def test_layers_can_be_compiled_one_graph_each(contract, data, tmp_path, monkeypatch):
    """Whole layers, forward and backward, without a break; no code is made for them here, which takes a minute."""
    made, compiling = [], torch.nn.Module.compile

    def traced(layer, **options):
        made.append(layer)
        compiling(layer, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    losses = []
    for compiled in (False, True):
        config = small_config(tmp_path / str(compiled), steps=2, compiled_layers=compiled)
        trainer = Trainer(PolicyTask(config, contract, data), Log())
        trainer.run()
        losses.append(trainer.losses)
        assert len(made) == (len(trainer.module.repeated_layers()) if compiled else 0)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match=r"torch\.compile needs a C\+\+ compiler"):
        Trainer(PolicyTask(replace(config, output=tmp_path / "none"), contract, data), Log())


# ------------------------------------------------------------------ strategies, mixtures, fractions


def labels_of(world: World, contract: Contract, name: str, options: dict) -> dict[str, np.ndarray]:
    specs = label_specs(StrategyConfig(name=name, options=options), chunk_size=contract.chunk_size)
    rng = np.random.default_rng(0)
    return {
        key: rng.integers(0, spec.codebook, (len(world), *spec.shape)).astype(np.int16)
        if spec.codebook is not None
        else rng.normal(size=(len(world), *spec.shape)).astype(np.float16)
        for key, spec in specs.items()
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("la_align", {}),
        ("la_direct", {}),
        ("la_direct", {"continuous": True}),
        ("la_cond", {}),
        ("la_tok", {}),
        ("la_tok", {"continuous": True}),
    ],
)
def test_every_strategy_trains_on_its_labels(contract, tmp_path, name, options):
    world = World(tmp_path / "world")
    labels = labels_of(world, contract, name, options)
    assert set(labels) <= {"z_img", "c_img", "z_act", "c_act"} and labels
    data = load_data(
        [source(world, labels=labels)], contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path / "cache"
    )
    config = small_config(tmp_path / "run", steps=2, batch_size=16)
    config = replace(config, policy=replace(config.policy, strategy=StrategyConfig(name=name, options=options)))
    log = Log()
    whole = Trainer(PolicyTask(config, contract, data), log)
    whole.run()
    figures = log.figures[0][1]
    assert np.isfinite(figures["latent"]) and figures["loss"] != figures["action"]
    assert (
        log.figures[-1][1]["validation_latent_share"] > 0
        and -1 <= log.figures[-1][1]["validation_latent_agreement"] <= 1
    )
    for accumulation in (4, 16):  # though episodes end within chunks, and padding does not count
        parts = replace(config, steps=1, output=tmp_path / str(accumulation), accumulation=accumulation)
        divided = Trainer(PolicyTask(parts, contract, data), Log())
        divided.run()
        np.testing.assert_allclose(divided.losses, whole.losses[:1], rtol=1e-5)
    assert load_checkpoint(tmp_path / "run/best").config.strategy.name == name
    # other labels are other data
    changed = {key: np.roll(value, 1, axis=0) for key, value in labels.items()}
    with pytest.raises(CheckpointError, match="other data"):
        Trainer(PolicyTask(config, contract, replace(data, labels=changed)), Log()).run()


def test_labels_beside_the_dataset_are_trained_on_and_refused_when_stale_or_partial(tmp_path, monkeypatch):
    """The whole way: a latent model labels a dataset on disk, la_tok trains on it, and then the data change."""
    contract = world_contract()
    root = World(tmp_path / "data").write(contract)
    data = DataConfig(dataset=root, contract=str(write_contract(tmp_path)), validation_fraction=0.1)
    strategy = StrategyConfig(name="la_tok", options={"codebook": 8})
    config = small_config(tmp_path / "run", steps=2, data=data)
    config = replace(config, policy=replace(config.policy, strategy=strategy))
    with pytest.raises(DataError, match=r"has no labels 'z_act'.*lavla latent label"):
        train(config)

    dataset = EpisodeDataset(root, contract)
    actions, real = zip(*(dataset.chunk(i) for i in range(len(dataset))), strict=True)
    stats = compute_stats(
        contract, ActionCodingConfig(), states_NS=dataset.states, actions_NHA=np.stack(actions), mask_NH=np.stack(real)
    )
    lam = ActionLamConfig(chunk_size=HORIZON, width=16, heads=2, feedforward=16, decoder_width=16, codebook_size=8)
    model = ActionLatentModel(lam, contract, stats)
    model.train().loss(model.normalise(np.stack(actions), dataset.states))  # seeds the codebook
    save_latent_model(tmp_path / "lam", model, {})
    label(root, tmp_path / "lam", workers=Workers(jobs=1), shard_steps=40)
    best = load_checkpoint(train(config))
    assert best.config.strategy == strategy
    (used,) = best.training["labels"].values()
    assert used["action"]["model_hash"] == content_hash(tmp_path / "lam") and best.training["objective"] == "means"
    began = tmp_path / "run/last/config.yaml"
    began.write_text(began.read_text().replace(used["action"]["model_hash"], "another"))
    with monkeypatch.context() as never:
        never.setattr("training.train.load_data", None)
        with pytest.raises(
            CheckpointError, match=r"begun on labels of .*/lam \(another\); the labels now are .*/lam \(\w+"
        ):
            train(config)

    def refused(changed, message):
        with pytest.raises(DataError, match=message):
            train(replace(changed, output=tmp_path / "other"))

    few = replace(config.policy, strategy=StrategyConfig(name="la_tok", options={"codebook": 4}))
    refused(replace(config, policy=few), r"codes|codebook")
    embeddings = StrategyConfig(name="la_tok", options={"continuous": True, "embedding": 32})
    refused(replace(config, policy=replace(config.policy, strategy=embeddings)), r"'c_act'.*shape")
    shard = next((root / "latent/action").glob("part-*.parquet"))
    kept = shard.read_bytes()
    shard.unlink()
    refused(config, "cannot be read")
    shard.write_bytes(kept)
    manifest = root / "latent/action/manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    refused(config, "partial: 2 of 2 shards")
    manifest.write_text(manifest.read_text().replace('"complete": false', '"complete": true'))
    file = root / "data/chunk-000/file-003.parquet"
    table = layout.read_table(file)
    layout.write_table(file, table.set_column(1, table.schema.field(1), table.column(1).take(list(range(9, -1, -1)))))
    refused(config, "stale: they were made from data")
    assert not (tmp_path / "other").exists()


def test_a_mixture_labelled_by_different_latent_models_is_refused(tmp_path):
    def labelled(name: str, model: str) -> Source:
        made = {"action": {"model": f"runs/{model}", "model_hash": model}}
        return replace(source(World(tmp_path / name)), label_sets=made)

    require_one_teacher([labelled("a", "one"), labelled("b", "one")])
    require_one_teacher([source(World(tmp_path / "a")), source(World(tmp_path / "b"))])
    with pytest.raises(
        DataError, match=r"those of .*/a by runs/one \(one\) and those of .*/c by runs/two \(two\)\. A code"
    ):
        require_one_teacher([labelled("a", "one"), labelled("b", "one"), labelled("c", "two")])


def test_what_the_machine_lacks_is_said_before_any_data_are_read(tmp_path, monkeypatch):
    config = small_config(tmp_path / "run", precision="bfloat16", data=DataConfig(dataset=tmp_path / "none"))
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: False)
    with pytest.raises(DeviceError, match=r"dtype is bfloat16, which .* precision: float32"):
        train(config)
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: True)
    monkeypatch.setattr(base_model, "is_flash_attn_2_available", lambda: False)
    pretrained = BackboneConfig(kind="pretrained", path="nowhere", attention="flash_attention_2")
    with pytest.raises(ConfigError, match="flash-attn package is not installed"):
        train(replace(config, policy=replace(config.policy, backbone=pretrained)))
    assert not (tmp_path / "run").exists()


def test_all_strategies_are_covered():
    assert set(STRATEGIES) == {"baseline", "la_align", "la_direct", "la_cond", "la_tok"}


def test_label_specs_do_not_depend_on_the_backbone(contract):
    for name, options, expected in (
        ("baseline", {}, {}),
        ("la_align", {"align_layer": 20}, {"c_img": (4, 128)}),
        ("la_direct", {}, {"z_img": (4,)}),
        ("la_tok", {}, {"z_act": (HORIZON,)}),
        ("la_tok", {"continuous": True}, {"c_act": (HORIZON, 128)}),
    ):
        specs = label_specs(StrategyConfig(name=name, options=options), chunk_size=contract.chunk_size)
        assert {key: spec.shape for key, spec in specs.items()} == expected


def test_statistics_are_of_the_training_samples_of_all_datasets_each_counted_once(contract, tmp_path):
    one, two = World(tmp_path / "one", episodes=3), World(tmp_path / "two", episodes=5, seed=1)
    mixed = load_data(
        [source(one, weight=5.0), source(two)], contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path
    )
    plain = load_data([source(one), source(two)], contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path)
    config, everything = small_config(tmp_path / "run"), np.arange(80)
    stats = training_stats(config, contract, mixed, everything)
    assert stats == training_stats(config, contract, plain, everything)
    states = np.concatenate([one.states, two.states])
    assert stats["samples"] == 80
    assert stats["state"]["joint_1"]["max"] == pytest.approx(states[:, 0].max())
    part = training_stats(config, contract, mixed, np.arange(30))
    assert part["state"]["joint_1"]["max"] == pytest.approx(one.states[:, 0].max())


def test_two_datasets_on_disk_are_trained_on_jointly(tmp_path):
    contract = world_contract()
    paths = [World(tmp_path / str(i), episodes=4, seed=i).write(contract) for i in range(2)]
    data = DataConfig(
        mixture=(MixturePart(path=paths[0]), MixturePart(path=paths[1], weight=2.5)),
        contract=str(write_contract(tmp_path)),
        fraction=0.7,
        validation_fraction=0.2,
    )
    best = train(small_config(tmp_path / "run", steps=3, data=data))
    training = load_checkpoint(best).training
    assert training["datasets"] == [str(path) for path in paths]
    assert training["episodes"] == 4  # 8, less 2 held out, of which 70 %


def test_a_training_begins_from_another_policy_with_its_weights_scales_and_words(tmp_path, capfd):
    contract = world_contract()
    file = str(write_contract(tmp_path))
    first = DataConfig(dataset=World(tmp_path / "a").write(contract), contract=file, validation_fraction=0.2)
    initial = train(small_config(tmp_path / "first", steps=6, data=first))
    fast = World(tmp_path / "b", seed=1)
    fast.actions = fast.states + 3 * (fast.actions - fast.states)  # beyond what the first has seen
    data = replace(first, dataset=fast.write(contract))
    still = OptimConfig(learning_rate=1e-12, weight_decay=0.0)
    config = small_config(tmp_path / "second", steps=1, data=data, optim=still, initial=initial)
    begun = train(config)
    assert "of the actions of joint_1 lie outside of the range of" in capfd.readouterr().err
    weights, before = (load_file(path / "model.safetensors") for path in (begun, initial))
    assert all(torch.allclose(weights[name], before[name], atol=1e-6) for name in before)
    assert not any(torch.equal(weights[name], tensor) for name, tensor in trained_from_nothing(data, tmp_path).items())
    for name in ("stats.json", "tokenizer/tokenizer.json"):
        assert (begun / name).read_bytes() == (initial / name).read_bytes(), "another scale is another policy"
    assert load_checkpoint(begun).training["initial"] == fingerprint(initial)

    with pytest.raises(CheckpointError, match=r"initial: '\w+' → None"):
        train(replace(config, steps=2, initial=None, optim=replace(still, schedule="constant")))


def trained_from_nothing(data: DataConfig, folder: Path) -> dict[str, torch.Tensor]:
    """Weights of two dimensions, which nothing but the seed decides."""
    weights = load_file(train(small_config(folder / "third", steps=1, data=data)) / "model.safetensors")
    return {name: tensor for name, tensor in weights.items() if tensor.ndim > 1}


def test_a_policy_that_does_not_fit_is_no_beginning(tmp_path):
    contract = world_contract()
    data = DataConfig(dataset=World(tmp_path / "a").write(contract), contract=str(write_contract(tmp_path)))
    initial = train(small_config(tmp_path / "first", steps=1, data=data))
    config = small_config(tmp_path / "second", steps=1, data=data, initial=initial)
    wider = replace(config.policy.backbone, tiny=replace(config.policy.backbone.tiny, intermediate=48))
    with pytest.raises(CheckpointError, match=r"(?s)does not fit .*policy of this run.*has shape .*expected"):
        train(replace(config, policy=replace(config.policy, backbone=wider)))
    absolute = replace(config.policy, actions=ActionCodingConfig(relative_actions=False))
    with pytest.raises(CheckpointError, match=r"predicts actions as .*set policy\.actions"):
        train(replace(config, policy=absolute))
    with pytest.raises(CheckpointError, match="is not a directory"):
        train(replace(config, initial=tmp_path / "nowhere"))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(replace(contract, robot="other").to_dict()))
    with pytest.raises(ContractError, match="robot"):
        train(replace(config, data=replace(data, contract=str(other))))


def test_a_dataset_of_another_contract_is_refused_by_name(tmp_path):
    contract = world_contract()
    paths = [World(tmp_path / "a").write(contract), World(tmp_path / "b").write(replace(contract, robot="other"))]
    data = DataConfig(mixture=tuple(MixturePart(path=p) for p in paths), contract=str(write_contract(tmp_path)))
    with pytest.raises(ValueError, match=r"(?s)does not match that of .*/b;.*robot"):
        train(small_config(tmp_path / "run", data=data))


# ------------------------------------------------------------------ what can be known before


def test_too_little_memory_or_disk_is_found_before_training(contract, data, tmp_path, monkeypatch):
    monkeypatch.setattr(system_resources, "available_memory", lambda: 1000)
    with pytest.raises(RoomError, match=r"gradients and optimizer states needs .* 0\.0 GiB are free"):
        Trainer(PolicyTask(small_config(tmp_path / "run"), contract, data), Log())
    with pytest.raises(RoomError, match="80 samples' frames"):
        load_world(contract, tmp_path, frames="memory")
    monkeypatch.undo()
    monkeypatch.setattr(system_resources, "free_disk", lambda folder: 1000)
    with pytest.raises(RoomError, match=r"saving best, last, resume needs .* in .*run"):
        Trainer(PolicyTask(small_config(tmp_path / "run"), contract, data), Log())


def test_available_memory_is_the_least_of_machine_and_container(tmp_path, monkeypatch):
    monkeypatch.setattr(system_resources, "_CGROUP", tmp_path)
    whole = system_resources.available_memory()
    assert whole is not None and whole > 0
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 3500000\nfile 500000\n")
    assert system_resources.available_memory() == 1_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert system_resources.available_memory() > 5_000_000


def test_a_tracker_that_is_not_installed_is_refused_and_never_imported_unasked(tmp_path, monkeypatch):
    config = small_config(tmp_path / "run", trackers=("wandb",))
    monkeypatch.setattr("training.logs.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackers names \['wandb'\].*pip install wandb"):
        require_trackers(config)
    require_trackers(replace(config, trackers=()))
    assert "wandb" not in sys.modules


def test_wandb_gets_the_figures_and_the_run_goes_on_under_its_name(contract, data, tmp_path, monkeypatch):
    calls = []

    class Wandb:
        @staticmethod
        def init(**settings):
            calls.append(settings)
            return Wandb()

        def log(self, figures, step):
            calls.append((step, figures))

        def finish(self):
            calls.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    config = small_config(tmp_path / "run", steps=2, trackers=("wandb",))
    Trainer(PolicyTask(config, contract, data), Log()).run()
    assert calls[0]["resume"] == "allow" and calls[0]["config"]["steps"] == 2
    assert [step for step, _ in calls[1:-1]] == [1, 2, 2] and calls[-1] == "finished"
    assert "train/loss" in calls[1][1] and "validation/mse" in calls[3][1]
    Trainer(PolicyTask(config, contract, data), Log()).run()
    assert calls[-2]["id"] == calls[0]["id"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 0", "steps is 0"),
        ("stepz: 10", "unknown keys"),
        ("optim: {schedule: linear}", "optim.schedule is 'linear'"),
        ("batch_size: 10\naccumulation: 4", "multiple of accumulation"),
        ("policy: {backbone: {tiny: {width: 130}}}", "tiny.width"),
        ("steps: [", "not valid YAML"),
        ("seed: 1.5", "seed is 1.5"),
        ("data: {fraction: 0}", "data.fraction is 0"),
        ("data: {frames: disk}", "data.frames is 'disk'"),
        ("data: {mixture: [{path: a, weight: -1}]}", "data.mixture.weight is -1"),
        ("data: {mixture: [{path: a}, {path: a}]}", "every dataset once"),
        ("augment: {crop_area: 0.1}", "augment.crop_area is 0.1"),
        ("augment: {hue: 0.6}", "augment.hue is 0.6"),
        ("trackers: [mlflow]", r"trackers\[0\] is 'mlflow'"),
    ],
)
def test_configuration_errors_name_the_key(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(TrainConfig, file)


def test_learning_rate_schedules():
    step = OptimConfig(learning_rate=1e-4)
    assert [step.learning_rate_at(s, 80_000) for s in (0, 9_999, 10_000, 25_000)] == [1e-4, 1e-4, 5e-5, 2.5e-5]
    cosine = OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=10, final_fraction=0.1)
    assert cosine.learning_rate_at(0, 110) == pytest.approx(1e-4)
    assert cosine.learning_rate_at(10, 110) == pytest.approx(1e-3)
    assert cosine.learning_rate_at(60, 110) == pytest.approx(5.5e-4)
    assert cosine.learning_rate_at(110, 110) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", ["tabletop_tiny", "tabletop_gpu"])
def test_the_tabletops_recipes_build(contract, name):
    config = read_config(TrainConfig, config_path(f"training/{name}.yaml"))
    tiny = config.policy.backbone.tiny
    tokenizer = train_tokenizer([INSTRUCTION], tiny.vocab_size, contract.chunk_size)
    model = LatentActionVLA(config.policy, contract, build_backbone(config.policy.backbone, tokenizer))
    assert model.backbone.image_tokens == tiny.image_tokens == 49
    assert config.policy.strategy.name == "baseline"


@pytest.mark.parametrize(
    ("name", "steps", "chunk", "normalization", "cameras"),
    [("libero", 80_000, 8, "quantile", 2), ("robotwin", 30_000, 25, "min_max", 3), ("jaka", 30_000, 20, "quantile", 2)],
)
def test_the_papers_recipes_are_those_of_table_8(name, steps, chunk, normalization, cameras):
    from lavla_ros.contract import load_contract
    from lavla_ros.policy.normalization import relative_indices

    config = read_config(TrainConfig, config_path(f"training/{name}.yaml"))
    contract = load_contract(config.data.contract)
    assert (config.steps, config.batch_size, contract.chunk_size) == (steps, 128, chunk)
    optim = config.optim
    assert (optim.learning_rate, optim.schedule, optim.decay_steps, optim.decay_factor) == (1e-4, "step", 10_000, 0.5)
    assert (optim.weight_decay, optim.gradient_clip) == (0.01, 1.0)
    # ours; the decays stay at steps 10,000, 20,000, …
    rates = [optim.learning_rate_at(s, steps) for s in (0, 499, 999, 9_999, 10_000)]
    assert rates == pytest.approx([1e-7, 5e-5, 1e-4, 1e-4, 5e-5])
    assert config.policy.head.kv == "shared"
    backbone = config.policy.backbone
    assert (backbone.kind, backbone.path) == ("pretrained", "Qwen/Qwen3-VL-2B-Instruct")
    assert (backbone.lora.rank, backbone.lora.alpha) == (64, 16)
    assert config.policy.actions.normalization == normalization and config.precision == "bfloat16"
    assert len(contract.cameras) == cameras and all(c.width == c.height == 224 for c in contract.cameras)
    relative_indices(contract, config.policy.actions)  # raises where relative coding cannot be done
    augment = config.augment
    assert (augment.crop_area, augment.brightness, augment.contrast) == (0.9, 0.2, 0.2)
    assert (augment.saturation, augment.hue) == (0.2, 0.05)


ABLATIONS = [
    # Table 4
    ("la_direct", {"continuous": True}, lambda s: s.required_labels == ("c_img",)),
    ("la_tok", {"continuous": True}, lambda s: s.required_labels == ("c_act",)),
    # Table 5
    ("la_align", {"align_layer": "early"}, lambda s: s.layer == 7),
    ("la_align", {"align_layer": "final"}, lambda s: s.layer == 28),
    ("la_align", {"align_layer": 18}, lambda s: s.layer == 18),
    # Tables 9 and 10
    ("baseline", {"placeholders": "PH-Direct"}, lambda s: [g.count for g in s.segments()] == [32]),
    ("baseline", {"placeholders": "PH-Cond", "tokens": 4}, lambda s: [g.count for g in s.segments()] == [40]),
    # Table 12
    *(("la_tok", {"weight": weight}, lambda s, w=weight: s.weight == w) for weight in (0.1, 0.2, 0.5)),
    ("la_align", {"weight": 20}, lambda s: s.weight == 20.0),
]


@pytest.mark.parametrize(("name", "options", "holds"), ABLATIONS)
def test_every_ablation_is_run_from_the_command_line_and_from_a_file(tmp_path, monkeypatch, name, options, holds):
    runs = []
    monkeypatch.setattr("training.train.train", lambda config: runs.append(config) or tmp_path)
    words = [str(word).lower() if word is True else str(word) for pair in options.items() for word in pair]
    recipe = str(config_path("training/libero.yaml"))
    main(["--config", recipe, "--policy.strategy.name", name, "--policy.strategy.options", *words])
    file = tmp_path / "ablation.yaml"
    file.write_text(
        yaml.safe_dump({"extends": "training/libero", "policy": {"strategy": {"name": name, "options": options}}})
    )
    main(["--config", str(file)])
    for config in runs:
        shape = BackboneShape(width=32, layers=28)
        assert holds(build_strategy(config.policy.strategy, chunk_size=8, shape=shape)), config.policy.strategy
    assert len(runs) == 2


def test_command_line_reports_errors_and_fails(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["--config", str(tmp_path / "none.yaml")])
    assert "cannot read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["--data.dataset", str(tmp_path / "none")])
    assert "does not exist" in capsys.readouterr().err
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(f"data: {{mixture: [{{path: {tmp_path}/a}}, {{path: {tmp_path}/b, weight: 2}}]}}")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["--config", str(mixture), "--steps", "5"])
    assert f"dataset {tmp_path}/a does not exist" in capsys.readouterr().err


def test_the_log_says_which_share_of_the_steps_was_clipped(contract, tmp_path):
    data = load_world(contract, tmp_path)

    def figures(name: str, clip: float, log_every: int) -> list[dict[str, float]]:
        config = small_config(tmp_path / name, steps=2, batch_size=8, log_every=log_every)
        log = Log()
        Trainer(PolicyTask(replace(config, optim=replace(config.optim, gradient_clip=clip)), contract, data), log).run()
        return [shown for _, shown in log.figures if "clipped" in shown]

    free = figures("free", 1e9, 1)
    assert [shown["clipped"] for shown in free] == [0, 0]
    assert [shown["clipped"] for shown in figures("all", 1e-9, 1)] == [1, 1]
    between = sum(shown["gradient_norm"] for shown in free) / 2
    assert [shown["clipped"] for shown in figures("half", between, 2)] == [0.5]


def test_the_log_says_how_fast_the_steps_since_its_last_entry_were(contract, data, tmp_path, monkeypatch):
    """Not slow steps of before a resume, nor validation and saving."""
    optim = OptimConfig(schedule="constant")
    config = small_config(tmp_path, steps=6, log_every=2, validate_every=2, save_every=4, optim=optim)
    first = Trainer(PolicyTask(replace(config, steps=4), contract, data), Log())
    first.seconds = 10_000.0
    first.run()
    monkeypatch.setattr(Trainer, "_validate", lambda self: time.sleep(0.3))
    log = Log()
    second = Trainer(PolicyTask(config, contract, data), log)
    monkeypatch.setattr(
        second, "_train_step", lambda *, stop, step=second._train_step: (time.sleep(0.1), step(stop=stop))[1]
    )
    second.run()
    assert second.seconds > 10_000, "how long the run has taken in all is still known"
    ((_, figures),) = [entry for entry in log.figures if "samples_per_s" in entry[1]]
    assert config.batch_size / 0.4 < figures["samples_per_s"] <= config.batch_size / 0.1


def test_every_phrasing_of_an_instruction_is_drawn_by_seed_and_position(contract, tmp_path):
    data = load_world(contract, tmp_path, World(phrasings=PHRASINGS))
    several, one = np.flatnonzero(data.episode_N % 2 == 1), np.flatnonzero(data.episode_N % 2 == 0)
    drawn = data.instructions_of(np.resize(several, 4000), 0, range(4000))
    assert [data.instructions[i] for i in np.unique(drawn)] == list(PHRASINGS)
    assert np.abs(np.bincount(drawn) / 4000 - 0.25).max() < 0.03
    assert set(data.instructions_of(np.resize(one, 100), 0, range(100)).tolist()) == {0}
    # the same whoever draws them, and in which portions
    rows = np.resize(several, 60)
    parts = [data.instructions_of(rows[i : i + 7], 0, range(i, min(i + 7, 60))) for i in range(0, 60, 7)]
    assert np.array_equal(np.concatenate(parts), drawn[:60])
    assert not np.array_equal(data.instructions_of(rows, 1, range(60)), drawn[:60])

    task = PolicyTask(small_config(tmp_path / "run", steps=1), contract, data)
    trainer = Trainer(task, Log())
    cpu = torch.device("cpu")

    def texts(batch) -> list[str]:
        return [task.tokenizer.decode([t for t in row if t != task.tokenizer.pad_token_id]) for row in batch.tokens_BL]

    trained = texts(task.batch(rows[:8], task.read(rows[:8], range(8)), cpu))
    assert all(data.instructions[i] in text for i, text in zip(drawn[:8].tolist(), trained, strict=True))
    validated = texts(task.batch(rows[:8], task.read(rows[:8]), cpu))
    assert all(INSTRUCTION in text for text in validated)
    trainer.run()
    others = load_world(contract, tmp_path, World(phrasings=(*PHRASINGS[:3], "or so")))
    with pytest.raises(CheckpointError, match="data"):
        Trainer(PolicyTask(small_config(tmp_path / "run", steps=1), contract, others), Log()).run()
