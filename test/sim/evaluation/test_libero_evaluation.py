"""LIBERO in the harness: the expert, and a checkpoint in this process and behind topics."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.checkpoint import save_checkpoint, trained_parameters
from lavla_ros.policy.config import BackboneConfig, PolicyConfig, TinyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import compute_stats
from lavla_ros.policy.prompt import train_tokenizer
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.evaluation.results import same_episodes
from sim_bridges.paper.tables import PAPER
from sim_bridges.suites import SuiteError

pytestmark = [pytest.mark.sim, pytest.mark.timeout(900), pytest.mark.long]
SHARED = Path(__file__).resolve().parents[4] / "shared" / "libero_assets"
TINY = TinyConfig(image_size=112, stem_channels=(8, 16), vision_width=64, width=64, depth=1, intermediate=128)


@pytest.fixture(scope="module")
def config() -> EvaluationConfig:
    pytest.importorskip("libero", reason="LIBERO is not installed")
    assets = os.environ.get("LAVLA_LIBERO_ASSETS", "") or str(SHARED)
    if not Path(assets).is_dir():
        pytest.skip(f"no LIBERO assets: LAVLA_LIBERO_ASSETS is not set and {SHARED} does not exist")
    return EvaluationConfig(suite="libero_object", tasks=("0",), episodes=2, options={"assets": assets})


def test_the_expert_on_one_worker_and_on_two(config: EvaluationConfig, tmp_path: Path) -> None:
    expert = replace(config, policy="expert")
    once = evaluate(expert, out=tmp_path, published=PAPER)
    assert [(e.state_index, e.seed, e.success, e.error) for e in once.episodes] == [
        (0, 7, True, None),
        (1, 7, True, None),
    ]
    assert same_episodes(once, evaluate(expert, workers=2))
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["assets"]["hash"] and not data["comparability"]["comparable"]
    assert "2 episodes a task in place of 50" in data["comparability"]["statement"]
    assert "Table 1" in (tmp_path / "report.html").read_text()


def test_a_suite_without_an_expert_says_so(config: EvaluationConfig) -> None:
    with pytest.raises(SuiteError, match=r"libero_goal task 0: no scripted expert.*tasks that have one"):
        evaluate(replace(config, suite="libero_goal", policy="expert"))


@pytest.mark.ros
def test_a_checkpoint_through_nodes_gives_the_episodes_of_one_process(config: EvaluationConfig, tmp_path: Path) -> None:
    policy = str(write_checkpoint(tmp_path / "policy"))
    short = replace(config, policy=policy, max_steps=20, videos=1)
    in_process = evaluate(short, out=tmp_path / "out")
    assert [(e.error, e.inferences, e.length_steps) for e in in_process.episodes] == [(None, 3, 20)] * 2
    assert (tmp_path / "out" / "clips" / "000000.mp4").stat().st_size > 1000
    assert same_episodes(in_process, evaluate(replace(short, through="nodes")))
    assert in_process.fingerprint == evaluate(short, workers=2).fingerprint


def write_checkpoint(path: Path) -> Path:
    """Random weights under LIBERO's contract; small motions."""
    contract = load_contract("libero")
    policy = PolicyConfig(backbone=BackboneConfig(tiny=TINY))
    tokenizer = train_tokenizer(["pick up the milk"], TINY.vocab_size, contract.chunk_size)
    torch.manual_seed(0)
    model = LatentActionVLA(policy, contract, build_backbone(policy.backbone, tokenizer))
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.3, (32, contract.state_dim))
    states[:, -2:] = (0.02, -0.02)
    actions = rng.uniform(-0.4, 0.4, (32, contract.chunk_size, contract.action_dim))
    stats = compute_stats(
        contract,
        policy.actions,
        states_NS=states,
        actions_NHA=actions,
        mask_NH=np.ones((32, contract.chunk_size), bool),
    )
    save_checkpoint(
        path,
        config=policy,
        contract=contract,
        stats=stats,
        tokenizer=tokenizer,
        tensors=trained_parameters(model),
        training={},
    )
    return path
