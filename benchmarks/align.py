"""What LA-Align has to learn from, and what it does to a policy: the labels c_img, and the states drawn to them.

    python -m benchmarks.align DATASET [--policy DIR …]

Of the labels alone: what all of them have in common, whether neighbouring steps can be told apart, how much of an
action they tell and how much of them actions and states tell. Of each policy, at every layer of its backbone: how much
a linear map of the placeholders' states tells of c_img and of the action, and how the gradients of the two losses
compare there; a policy without a latent loss is given LA-Align's, with the linear map that fits best. Reads DATASET
with its image labels and writes nothing but its answer, JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import image_size_of
from lavla_ros.policy.checkpoint import LoadedCheckpoint, load_checkpoint
from lavla_ros.policy.config import ActionCodingConfig, StrategyConfig
from lavla_ros.policy.model import LatentActionVLA, VlaBatch, VlaOutput
from lavla_ros.policy.normalization import Normalizer, compute_stats
from lavla_ros.policy.strategies import LabelSpec, pool_steps
from lavla_ros.policy.strategies.la_align import LaAlign
from training.config import DataConfig
from training.data import BatchMaker, LoadedData, load_data, open_sources
from training.latent_actions.labels import CODE_VECTORS, label_sets
from training.latent_actions.probe import cross_validated_r2, standardised

Rows = NDArray[np.int64]
KEY = "c_img"
FOLDS, RIDGE = 5, 30.0


def unit(values_Nc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1."""
    result: NDArray[np.float64] = values_Nc / np.maximum(np.linalg.norm(values_Nc, axis=-1, keepdims=True), 1e-12)
    return result


def common_part(c_Nc: NDArray[np.float64]) -> dict[str, float]:
    """What the best constant output has: its mean cosine, before and after the mean is subtracted; its energy."""
    mean_c = c_Nc.mean(0)
    return {
        "constant_cosine": float(np.linalg.norm(unit(c_Nc).mean(0))),
        "constant_cosine_centred": float(np.linalg.norm(unit(c_Nc - mean_c).mean(0))),
        "mean_share_of_energy": float((mean_c**2).sum() / (c_Nc**2).sum(1).mean()),
        "effective_dimensions": _effective_dimensions(c_Nc - mean_c),
    }


def _effective_dimensions(centred_Nc: NDArray[np.float64]) -> float:
    """Participation ratio of the variances: 1 if all lies on a line."""
    variances = np.linalg.eigvalsh(np.cov(centred_Nc.T))
    return float(variances.sum() ** 2 / (variances**2).sum())


def between_steps(c_Nc: NDArray[np.float64], last_N: Rows, chunk: int) -> dict[str, float]:
    """How labels of steps of an episode differ: squared distance over that of steps drawn from all (1: as much).

    ``one_vector_per_chunk``: the mean cosine of a chunk's labels, centred, with their own mean: what an output has
    that does not tell the steps of a chunk apart. ``last_N``: index of the last step of each step's episode.
    """
    centred = c_Nc - c_Nc.mean(0)
    spread = 2 * (centred**2).sum(1).mean()
    rows = np.arange(len(c_Nc))

    def apart(steps: int) -> float:
        first = rows[rows + steps <= last_N]
        return float(((c_Nc[first] - c_Nc[first + steps]) ** 2).sum(1).mean() / spread)

    starts = rows[rows + chunk - 1 <= last_N]
    starts = starts[:: max(1, len(starts) // 2000)]
    chunks = centred[starts[:, None] + np.arange(chunk)]
    together = unit(chunks.mean(1))[:, None]
    distances = {f"apart_{steps}": apart(steps) for steps in (1, 2, 5, chunk - 1)}
    return {**distances, "one_vector_per_chunk": float((unit(chunks) * together).sum(-1).mean())}


def retrieval(
    c_Nc: NDArray[np.float64], episode_N: Rows, actions_NX: NDArray[np.float64], count: int
) -> dict[str, float]:
    """The nearest label (centred, by cosine) of ``count`` steps: is it of a neighbouring step, and of a like action?

    ``adjacent``: how often the nearest of the same episode is at most 2 steps away, ``adjacent_chance``: of a step
    drawn at random. ``action_distance``: squared distance between the actions of a step and the nearest one of another
    episode, over that of steps drawn at random.
    """
    rng = np.random.default_rng(5)
    queries = np.sort(rng.permutation(len(c_Nc))[:count])
    units = unit(c_Nc - c_Nc.mean(0)).astype(np.float32)
    hits, chances, near, far = [], [], [], []
    for query in queries:
        cosine = units @ units[query]
        own = np.flatnonzero(episode_N == episode_N[query])
        own = own[own != query]
        if len(own):
            hits.append(abs(int(own[cosine[own].argmax()]) - int(query)) <= 2)
            chances.append(float((np.abs(own - query) <= 2).mean()))
        cosine[episode_N == episode_N[query]] = -np.inf
        near.append(((actions_NX[cosine.argmax()] - actions_NX[query]) ** 2).sum())
        far.append(((actions_NX[rng.integers(len(c_Nc))] - actions_NX[query]) ** 2).sum())
    return {
        "adjacent": float(np.mean(hits)),
        "adjacent_chance": float(np.mean(chances)),
        "action_distance": float(np.mean(near) / np.mean(far)),
    }


def explained(features_NX: NDArray[np.float64], values_NY: NDArray[np.float64], episode_N: Rows) -> float:
    """Share of all variance of ``values`` that a ridge regression on ``features`` tells, of held-out episodes."""
    names, of_N = np.unique(episode_N, return_inverse=True)
    fold_N = (np.random.default_rng(23).permutation(len(names)) % min(FOLDS, len(names)))[of_N]
    r2_Y = cross_validated_r2(standardised(features_NX), values_NY, fold_N)
    weight_Y = np.where(np.isfinite(r2_Y), values_NY.var(0), 0.0)
    return float((np.nan_to_num(r2_Y) * weight_Y).sum() / weight_Y.sum())


def actions_of(data: LoadedData, rows: Rows, normalizer: Normalizer) -> NDArray[np.float64]:
    """(N, H, A) normalised chunks."""
    chunks, _ = data.chunks(rows, normalizer.contract.chunk_size)
    return normalizer.encode_actions(chunks, data.states_NS[rows]).astype(np.float64)


def about_labels(data: LoadedData, normalizer: Normalizer, delta: int, count: int) -> dict[str, Any]:
    """Everything that needs no policy."""
    c_Nc = data.labels[KEY].astype(np.float64).reshape(len(data), -1)
    rows = _spread(len(data), 20_000)
    chunks = actions_of(data, rows, normalizer)
    later = np.minimum(rows + delta, data.last_N[rows])
    moved = (data.states_NS[later] - data.states_NS[rows]).astype(np.float64)
    acted, episodes, c = chunks.reshape(len(rows), -1), data.episode_N[rows], c_Nc[rows]
    state = data.states_NS[rows].astype(np.float64)
    both = np.concatenate([state, data.states_NS[later], acted], axis=1)
    first = actions_of(data, np.arange(len(data)), normalizer)[:, 0] if len(rows) != len(data) else chunks[:, 0]
    return {
        "steps": len(data),
        "episodes": len(np.unique(data.episode_N)),
        "common": common_part(c_Nc),
        "between_steps": between_steps(c_Nc, data.last_N, normalizer.contract.chunk_size),
        "retrieval": retrieval(c_Nc, data.episode_N, first, count),
        "r2_from_c": {
            "mean_action": explained(c, chunks.mean(1), episodes),
            "first_action": explained(c, chunks[:, 0], episodes),
            "change_of_state": explained(c, standardised(moved), episodes),
            "state": explained(c, standardised(state), episodes),
        },
        "r2_of_c": {
            "state": explained(state, c, episodes),
            "action_chunk": explained(acted, c, episodes),
            "states_and_actions": explained(both, c, episodes),
        },
    }


def about_policy(policy: LoadedCheckpoint, data: LoadedData, rows: Rows, batch: int = 32) -> dict[str, Any]:
    """What each layer's placeholder states tell, and the gradients there."""
    model, steps = policy.model, policy.contract.chunk_size
    labels = tuple(dict.fromkeys((KEY, *model.strategy.required_labels)))
    maker = BatchMaker(data, policy.normalizer, policy.prompt, required_labels=labels, loss_on_padding=True)
    if prepared := {key: data.labels[key] for key in model.strategy.required_labels}:
        model.strategy.prepare(prepared)
    batches = [maker(part, data.frames.take(part)) for part in np.split(rows, range(batch, len(rows), batch))]
    states: list[list[Tensor]] = []
    with torch.inference_mode():
        for one in batches:
            output: VlaOutput = model(one.images, one.tokens_BL, one.state_BS)
            found = [(output.states.segments[s.kind], s) for s in model.strategy.segments()]
            each = [torch.stack([pool_steps(of[k], s) for of, s in found]) for k in range(len(found[0][0]))]
            states.append([pooled.mean(0) for pooled in each])
    c = np.concatenate([one.labels[KEY].flatten(2).numpy() for one in batches]).astype(np.float64)
    actions = np.concatenate([one.actions_BHA.numpy() for one in batches]).astype(np.float64)
    c, actions = c - c.mean((0, 1)), actions - actions.mean((0, 1))
    seen = range(0, steps, max(1, steps // 4))
    layers = []
    for k in range(len(states[0])):
        state = torch.cat([of[k] for of in states]).double().numpy()
        told = [
            (
                explained(state[:, h], c[:, h], data.episode_N[rows]),
                explained(state[:, h], actions[:, h], data.episode_N[rows]),
            )
            for h in seen
        ]
        layers.append(
            {
                "layer": k,
                "r2_of_c": float(np.mean([t[0] for t in told])),
                "r2_of_action": float(np.mean([t[1] for t in told])),
            }
        )
    return {
        "strategy": policy.config.strategy.name,
        "options": dict(policy.config.strategy.options),
        "step": policy.training.get("step"),
        "layers": layers,
        "gradients": _all_gradients(policy, data, batches),
    }


def _all_gradients(policy: LoadedCheckpoint, data: LoadedData, batches: Sequence[VlaBatch]) -> Mapping[str, Any]:
    """Of the policy itself if it has a latent loss; else with LA-Align at each layer, by the linear map that fits."""
    if (own := gradients(policy, batches[0])) is not None:
        return {"own": own}
    layers = range(1, policy.model.backbone.shape.layers + 1)
    asked = [{"align_layer": layer, "centre": centre} for layer in layers for centre in (False, True)]
    return {str(options): gradients(aligned(policy, data, batches[1:], options), batches[0]) for options in asked}


def aligned(
    policy: LoadedCheckpoint, data: LoadedData, batches: Sequence[VlaBatch], options: Mapping[str, Any]
) -> LoadedCheckpoint:
    """The same weights with LA-Align, whose linear map is the ridge regression of c_img on these batches' states."""
    config = replace(policy.config, strategy=StrategyConfig(name="la_align", options=options))
    model = LatentActionVLA(config, policy.contract, policy.model.backbone)
    model.head = policy.model.head
    strategy = model.strategy
    assert isinstance(strategy, LaAlign) and isinstance(strategy.project, nn.Linear)
    strategy.prepare({KEY: data.labels[KEY]})
    states, targets = [], []
    with torch.no_grad():
        for one in batches:
            output: VlaOutput = model(one.images, one.tokens_BL, one.state_BS)
            states.append(output.states.segments["action"][strategy.layer].flatten(0, 1).double())
            targets.append((one.labels[KEY].flatten(2) - strategy.mean_c).flatten(0, 1).double())
        x, y = torch.cat(states), torch.cat(targets)
        x0, y0 = x.mean(0), y.mean(0)
        ridge = torch.eye(x.shape[1], dtype=x.dtype) * RIDGE
        map_Dc = torch.linalg.solve((x - x0).T @ (x - x0) + ridge, (x - x0).T @ (y - y0))
        strategy.project.weight.copy_(map_Dc.T)
        strategy.project.bias.copy_(y0 - x0 @ map_Dc)
    return replace(policy, config=config, model=model)


def gradients(policy: LoadedCheckpoint, batch: VlaBatch) -> dict[str, Any] | None:
    """Norms of λ∇L_latent and ∇L_action on the states of every layer, at the images and elsewhere; None: no latent."""
    model, seen = policy.model, []
    kept = model.backbone.register_forward_hook(lambda module, given, states: seen.append(states))
    action, latent, _ = model.terms(batch)
    kept.remove()
    if latent is None:
        return None
    columns = model.backbone.image_columns(batch.images.shape[1], batch.images.device)
    terms = {"latent": model.strategy.weight * latent, "action": action}
    norms = []
    for k, states in enumerate(seen[0]):
        row: dict[str, float] = {"layer": k}
        for name, term in terms.items():
            (gradient,) = torch.autograd.grad(
                term, states, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            images = gradient.index_select(1, columns)
            row[f"{name}_images"] = float(images.norm())
            row[f"{name}_text"] = float((gradient.square().sum() - images.square().sum()).clamp_min(0).sqrt())
        norms.append(row)
    return {"states": norms, "backbone": model.compare_gradients(batch)}


def _spread(count: int, limit: int) -> Rows:
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def measure(dataset: Path, policies: Sequence[Path], *, contract_name: str, samples: int) -> dict[str, Any]:
    """Raises what opening datasets, labels and checkpoints raises."""
    loaded = [load_checkpoint(path) for path in policies]
    contract = loaded[0].contract if loaded else load_contract(contract_name)
    sizes = {image_size_of(policy.config.backbone) for policy in loaded} or {32}
    (manifest,) = [m for m in label_sets(dataset).values() if KEY in m.keys]
    shape = manifest.keys[KEY].shape
    config = DataConfig(dataset=dataset, contract=contract.name, frames="video")
    keys = (KEY, *([CODE_VECTORS] if any(CODE_VECTORS in p.model.strategy.required_labels for p in loaded) else []))
    specs = {key: LabelSpec(shape=shape) for key in keys}
    (size,) = sizes
    data = load_data(open_sources(config, contract, specs), contract, config, image_size=size, cache_dir=dataset)
    coding = ActionCodingConfig()
    if loaded:
        normalizer = loaded[0].normalizer
    else:
        rows = _spread(len(data), 10_000)
        chunks, mask = data.chunks(rows, contract.chunk_size)
        stats = compute_stats(contract, coding, states_NS=data.states_NS[rows], actions_NHA=chunks, mask_NH=mask)
        normalizer = Normalizer(contract, coding, stats)
    rows = _spread(len(data), samples)
    return {
        "model": manifest.model,
        "labels": about_labels(data, normalizer, int(manifest.settings["delta"]), min(samples, 1000)),
        "policies": {str(policy.path): about_policy(policy, data, rows) for policy in loaded},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--policy", type=Path, nargs="*", default=[])
    parser.add_argument("--contract", default="jaka_minicobo")
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args(argv)
    found = measure(options.dataset, options.policy, contract_name=options.contract, samples=options.samples)
    print(json.dumps(_rounded(found), indent=1))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
