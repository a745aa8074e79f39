"""Who commands an episode: a checkpoint, the suite's scripted expert, recorded demonstrations, or a node on topics.

All are an :class:`sim_bridges.episode.Actor`; a checkpoint in this process and one behind ROS topics run the same loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.yaml_text import load_yaml
from sim_bridges.episode import Actor, PolicyActor, PolicyError, load_actor
from sim_bridges.evaluation.config import REPLAY, kind_of
from sim_bridges.evaluation.policy_server import ServedPolicy
from sim_bridges.world import EpisodePlan, SuiteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a policy outside of the worker is heard and spoken to."""

    domain: int | None = None
    """ROS domain of a policy node; None: that of the environment."""
    served: str | None = None
    """Address of a policy that all workers share; it is no node then."""
    timeout_s: float
    keep_fd: int | None = None
    """What a policy node inherits, so that the domain stays taken for as long as it lives."""


def make_actor(policy: str, contract: Contract, *, every: int, device: str, link: Link | None) -> Actor:
    """Of every kind but the expert, which needs an environment. ``link``: the checkpoint is behind these topics, not
    here.

    Raises what loading raises (CheckpointError, ContractError, DatasetError, SuiteError).
    """
    if kind_of(policy) == "replay":
        return ReplayActor(Path(policy.removeprefix(REPLAY)), contract)
    if link is not None and link.served is None:
        from sim_bridges.evaluation.topic_policy_node import TopicActor

        return TopicActor(contract, domain=link.domain, timeout_s=link.timeout_s, every=every)
    if link is not None and link.served is not None:
        return PolicyActor(ServedPolicy(link.served), contract, every=every, named=policy)
    return load_actor(policy, contract, every=every, device=device)


class ReplayActor(Actor):
    """The recorded actions of a dataset, whatever happens.

    Each episode replays the demonstration of its own scene (instruction, seed and, where the benchmark has one, initial
    state), so that it succeeds where the simulator repeats itself. After the demonstration's end its last action is
    repeated.
    """

    every = 1
    needs_images = False
    done = False

    def __init__(self, dataset: Path, contract: Contract) -> None:
        from training.dataset.reader import EpisodeDataset

        self._dataset = EpisodeDataset(dataset, contract)
        self._contract = contract
        scenes = recorded_scenes(dataset)
        self._by_scene = {
            (self._dataset.instruction(episode.first), scene.get("seed"), scene.get("initial_state")): episode
            for episode, scene in reversed(list(zip(self._dataset.episodes, scenes, strict=True)))
        }
        self._plan: EpisodePlan | None = None
        self._step = 0

    def reset(self, plan: EpisodePlan) -> None:
        self._plan, self._step = plan, 0

    def chunk(self, observation: Observation) -> ActionChunk:
        assert self._plan is not None
        wanted = (observation.instruction, self._plan.seed, self._plan.state_index)
        episode = self._by_scene.get(wanted)
        if episode is None:
            known = "; ".join(f"{text!r}, {seed}, {state}" for text, seed, state in list(self._by_scene)[:3])
            raise PolicyError(
                f"{self._dataset.path} has no demonstration of {wanted[0]!r} with seed {wanted[1]} and initial state "
                f"{wanted[2]}; it has {len(self._by_scene)} scenes, such as {known}"
            )
        actions, _ = self._dataset.chunk(episode.first + min(self._step, episode.length - 1))
        self._step += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns,
            dt_ns=self._contract.dt_ns,
            actions_HA=actions.astype(np.float64),
            names=self._contract.action.names,
        )

    def close(self) -> None:
        self._dataset.close()


def recorded_scenes(dataset: Path) -> list[dict[str, Any]]:
    """What each episode of a converted dataset was recorded in: its seed and, where there is one, initial state.

    Raises PolicyError if the dataset does not say.
    """
    file = dataset / "meta" / "conversion.json"
    try:
        bags = json.loads(file.read_text(encoding="utf-8"))["bags"]
        rows = {int(bag["episode"]): dict(bag["scene"]) for bag in bags if bag["episode"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        rows = {}
    if not rows or any(not {"task", "seed"} <= scene.keys() for scene in rows.values()):
        raise PolicyError(
            f"{file} does not say in which scenes the episodes were recorded (task, seed, initial state); only "
            "simulated episodes that were recorded as bags can be replayed: convert them with `lavla convert`"
        )
    return [rows[episode] for episode in sorted(rows)]


def policy_hash(policy: str) -> str | None:
    """Content hash of a checkpoint's files, or of a replayed dataset's actions; None for what has no content here."""
    kind = kind_of(policy)
    if kind in ("expert", "remote"):
        return None
    if kind == "replay":
        root = Path(policy.removeprefix(REPLAY))
        files = [*(root / "data").rglob("*.parquet"), root / "meta" / "info.json", root / "meta" / "conversion.json"]
    else:
        from lavla_ros.policy.folder import CheckpointError
        from lavla_ros.policy.policy import checkpoint_path

        root = checkpoint_path(policy)
        if not root.is_dir():
            raise CheckpointError(f"checkpoint {root} is not a directory; give the folder that holds config.yaml")
        files = [file for file in root.rglob("*") if file.is_file()]
    digest = hashlib.sha256()
    for file in sorted(files):
        if not file.exists():
            raise SuiteError(f"{root} is no dataset: it has no {file.relative_to(root)}")
        digest.update(file.relative_to(root).as_posix().encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def policy_config(policy: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The sections ``policy`` and ``training`` of a checkpoint's config.yaml; empty for anything else."""
    if kind_of(policy) != "checkpoint":
        return {}, {}
    import yaml

    from lavla_ros.policy.policy import checkpoint_path

    try:
        document = load_yaml((checkpoint_path(policy) / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        document = {}  # loading it will say what is wrong
    found = [document.get(name) if isinstance(document, Mapping) else None for name in ("policy", "training")]
    network, training = (section if isinstance(section, Mapping) else {} for section in found)
    return network, training
