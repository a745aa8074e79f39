"""What codes mean: how well a linear map reads actions from them, and what is seen where each code is used.

``inspect`` writes meaning.json, usage.png, a picture sheet per code and a page that shows them. It reads labels, so
`lavla latent label` comes first.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lavla_ros.contract import Contract
from lavla_ros.outputs import new_folder
from lavla_ros.policy.config import ActionCodingConfig
from lavla_ros.policy.normalization import Normalizer, StatsError, compute_stats
from training.dataset import EpisodeDataset, layout
from training.dataset.video import VideoReader
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import LatentModel, load_latent_model
from training.latent_actions.codebook_health import CodebookHealth
from training.latent_actions.label_shard import quantizer_of
from training.latent_actions.labels import Manifest, labels_of, read_shard
from training.latent_actions.probe import FOLDS, SHUFFLES, InspectionError, Probe, one_hot, probe, standardised

_PROBE_ROWS = 50_000
"""Rows of a probe at most, evenly spread: beyond that R² changes in the third digit."""
_SAMPLED_STEPS = 100_000
"""Steps among which the nearest transitions are looked for, evenly spread."""
_THUMBNAIL = 112
_PAGE_SHEETS = 32
"""Sheets shown in the page, of the codes used most; the others are files beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A transition whose embedding lies near a code's centre."""

    step: int
    """Index in the dataset."""
    episode: int
    frame: int
    """Number of the step in its episode."""
    token: int
    """Which of the step's tokens has the code."""
    start: int
    end: int
    """Steps of the two frames that show it."""
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything in meaning.json."""

    schema: int = 1
    dataset: str
    data_hash: str
    model: str
    model_hash: str
    kind: str
    settings: Mapping[str, str | int | float]
    health: dict[str, float]
    counts: list[int]
    """Uses of each code over all steps."""
    probes: list[Probe]
    examples: dict[str, list[Example]]
    """Code → its nearest transitions, nearest first."""


def inspect(dataset_path: Path, model_path: Path, out: Path, *, examples: int = 6, seed: int = 0) -> Inspection:
    """Write what the codes of ``model_path`` mean on a labelled dataset into the new folder ``out``.

    Raises InspectionError when the labels have no embeddings or a single episode; LabelError when there are no usable
    labels of this model; OutputError when ``out`` holds something or is being written.
    """
    with new_folder(out) as made:
        return _inspect(dataset_path, model_path, made, examples, seed)


def _inspect(dataset_path: Path, model_path: Path, out: Path, examples: int, seed: int) -> Inspection:
    folder, manifest = labels_of(dataset_path, model_path)
    if not any(key.startswith("c_") for key in manifest.keys):
        raise InspectionError(f"the labels in {folder} are codes only; label again without --codes-only")
    model = load_latent_model(model_path, LatentModel)
    dataset = EpisodeDataset(dataset_path, model.contract)
    if len(dataset.episodes) < 2:
        raise InspectionError(f"{dataset_path} has one episode; a probe is tried on episodes that it was not fitted to")

    labels = _sample(folder, manifest)
    health = CodebookHealth(labels.counts_K)
    targets = _targets(dataset, model, manifest, labels.steps_N)
    probes = _probes(dataset, labels, targets, manifest, seed)
    centres_Kd = _centres(model)
    used = np.flatnonzero(health.counts_K).tolist()
    near = {code: _nearest(dataset, manifest, labels, code, centres_Kd[code], examples) for code in used}

    out.mkdir()
    health.plot_usage(out / "usage.png", title=f"{manifest.kind} codes of {dataset_path.name}")
    frames = _frames(dataset, _camera(manifest, model.contract), near.values())
    means = _mean_target(labels, targets, manifest.codebook_size)
    sheets = {}
    for code, found in near.items():
        title = f"code {code}   {health.usage_K[code]:.2%} of tokens"
        sheets[code] = draw_sheet(title, found, frames, means.names, means.by_code_KA[code], means.target)
        (out / "codes").mkdir(exist_ok=True)
        sheets[code].save(out / "codes" / f"{code:03d}.png")
    meaning = Inspection(
        dataset=str(dataset_path),
        data_hash=manifest.data_hash,
        model=str(model_path),
        model_hash=manifest.model_hash,
        kind=manifest.kind,
        settings=manifest.settings,
        health=health.figures(),
        counts=health.counts_K.tolist(),
        probes=probes,
        examples={str(code): found for code, found in near.items()},
    )
    layout.write_json(out / "meaning.json", asdict(meaning))
    layout.write_text(out / "index.html", _page(meaning, (out / "usage.png").read_bytes(), sheets))
    return meaning


# ---------------------------------------------------------------------- labels and targets


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels of some steps, evenly spread."""

    steps_N: NDArray[np.int64]
    z_NT: NDArray[np.int16]
    c_NTd: NDArray[np.float16]
    counts_K: NDArray[np.int64]
    """Of all steps."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a probe is to find: one row per label (T None) or per token."""

    name: str
    dimensions: tuple[str, ...]
    values: NDArray[np.float64]
    """(N, A), or (N, T, A) where every token has its own."""


@dataclass(frozen=True, slots=True)
class _Means:
    """Mean of the first target where a code is used."""

    target: str
    names: tuple[str, ...]
    by_code_KA: NDArray[np.float64]


def _sample(folder: Path, manifest: Manifest) -> _Labels:
    """Codes are counted over all steps; embeddings are kept of a sample, shard by shard."""
    steps = np.unique(np.linspace(0, manifest.steps - 1, min(manifest.steps, _SAMPLED_STEPS)).astype(np.int64))
    z_key, c_key = sorted(manifest.keys, reverse=True)
    counts = np.zeros(manifest.codebook_size, np.int64)
    z, c = [], []
    for shard in manifest.shards:
        arrays = read_shard(folder, manifest, shard, [z_key, c_key])
        counts += CodebookHealth.of_codes(arrays[z_key], manifest.codebook_size).counts_K
        rows = steps[(steps >= shard.first_step) & (steps < shard.first_step + shard.steps)] - shard.first_step
        z.append(arrays[z_key][rows])
        c.append(arrays[c_key][rows])
    return _Labels(steps, np.concatenate(z), np.concatenate(c), counts)


def _targets(
    dataset: EpisodeDataset, model: LatentModel, manifest: Manifest, steps_N: NDArray[np.int64]
) -> list[_Target]:
    """Image codes: the action taken, the mean action of the chunk, the change of state. Action codes: their step's.

    Actions are normalised as for a policy, relative to the state if that can be done.
    """
    names = dataset.contract.action.names
    chunks_NHA = np.stack([dataset.chunk(int(i))[0] for i in steps_N]).astype(np.float64)
    if isinstance(model, ActionLatentModel):
        coded = model.normalise(chunks_NHA, dataset.states[steps_N]).cpu().numpy().astype(np.float64)
        return [_Target("action of the token's step", names, coded)]
    coded_NHA = _normalised(dataset.contract, dataset.states[steps_N], chunks_NHA)
    last = np.array([e.first + e.length - 1 for e in dataset.episodes])[dataset.episode_of[steps_N]]
    later = np.minimum(steps_N + int(manifest.settings["delta"]), last)
    moved_NS = (dataset.states[later] - dataset.states[steps_N]).astype(np.float64)
    return [
        _Target("mean action of the chunk", names, coded_NHA.mean(1)),
        _Target("first action", names, coded_NHA[:, 0]),
        _Target("change of state over the transition", dataset.contract.state.names, moved_NS),
    ]


def _normalised(
    contract: Contract, states_NS: NDArray[np.float32], chunks_NHA: NDArray[np.float64]
) -> NDArray[np.float64]:
    mask_NH = np.ones(chunks_NHA.shape[:2], np.bool_)
    for relative in (True, False):
        coding = ActionCodingConfig(relative_actions=relative, per_step_statistics=False)
        try:
            found = compute_stats(contract, coding, states_NS=states_NS, actions_NHA=chunks_NHA, mask_NH=mask_NH)
            return Normalizer(contract, coding, found).encode_actions(chunks_NHA, states_NS).astype(np.float64)
        except StatsError:
            if not relative:  # actions that have no state of the same name can't be relative to it
                raise
    raise AssertionError("the last coding either returns or raises")


def _mean_target(labels: _Labels, targets: Sequence[_Target], size: int) -> _Means:
    target = targets[0]
    tokens = labels.z_NT.shape[1]
    values = target.values if target.values.ndim == 3 else np.repeat(target.values[:, None], tokens, axis=1)
    flat = values.reshape(-1, values.shape[-1])
    sums = np.zeros((size, flat.shape[1]))
    np.add.at(sums, labels.z_NT.ravel(), flat)
    uses = np.bincount(labels.z_NT.ravel(), minlength=size)
    return _Means(target.name, target.dimensions, sums / np.maximum(uses, 1)[:, None])


# ---------------------------------------------------------------------- linear probes


def _probes(
    dataset: EpisodeDataset, labels: _Labels, targets: Sequence[_Target], manifest: Manifest, seed: int
) -> list[Probe]:
    found = []
    for target in targets:
        per_token = target.values.ndim == 3
        tokens = labels.z_NT.shape[1] if per_token else 1
        count = len(labels.steps_N)
        rows = np.unique(np.linspace(0, count - 1, min(count, _PROBE_ROWS // tokens)).astype(np.int64))
        values = target.values[rows].reshape(-1, len(target.dimensions))
        episodes = np.repeat(dataset.episode_of[labels.steps_N[rows]], tokens)
        z, c = labels.z_NT[rows], labels.c_NTd[rows].astype(np.float64)
        z = z.reshape(-1, 1) if per_token else z
        c = c.reshape(-1, c.shape[-1]) if per_token else c.reshape(len(c), -1)
        for source, features in (("code", one_hot(z, manifest.codebook_size)), ("embedding", standardised(c))):
            found.append(probe(source, target.name, target.dimensions, features, values, episodes, seed=seed))
    return found


# ---------------------------------------------------------------------- nearest transitions


@torch.no_grad()
def _centres(model: LatentModel) -> NDArray[np.float64]:
    quantizer = quantizer_of(model)
    return quantizer.codes_to_values(torch.arange(quantizer.size)).cpu().numpy().astype(np.float64)


def _nearest(
    dataset: EpisodeDataset, manifest: Manifest, labels: _Labels, code: int, centre_d: NDArray[np.float64], count: int
) -> list[Example]:
    """The tokens of this code nearest to its centre, of as many different episodes as there are."""
    rows, tokens = np.nonzero(labels.z_NT == code)
    distance = np.linalg.norm(labels.c_NTd[rows, tokens].astype(np.float64) - centre_d, axis=1)
    first: list[Example] = []
    others: list[Example] = []
    seen: set[int] = set()
    for i in np.argsort(distance, kind="stable"):
        step, token = int(labels.steps_N[rows[i]]), int(tokens[i])
        episode = dataset.episodes[int(dataset.episode_of[step])]
        last = episode.first + episode.length - 1
        span = int(manifest.settings["delta"]) if manifest.kind == "image" else int(manifest.settings["chunk_size"]) - 1
        example = Example(
            step=step,
            episode=episode.index,
            frame=step - episode.first,
            token=token,
            start=step,
            end=min(step + span, last),
            distance=round(float(distance[i]), 4),
        )
        if episode.index not in seen:
            seen.add(episode.index)
            first.append(example)
        elif len(others) < count:
            others.append(example)
        if len(first) == count:
            break
    return [*first, *others][:count]


def _camera(manifest: Manifest, contract: Contract) -> str:
    return str(manifest.settings.get("camera", contract.camera_names[0]))


def _frames(dataset: EpisodeDataset, camera: str, examples: Iterable[Sequence[Example]]) -> dict[int, Image.Image]:
    """Step → small picture, for every frame that an example shows; each video is opened once."""
    steps = sorted({step for found in examples for e in found for step in (e.start, e.end)})
    pictures: dict[int, Image.Image] = {}
    episode_of = {step: dataset.episodes[int(dataset.episode_of[step])] for step in steps}
    for file, shown in groupby(steps, lambda step: episode_of[step].videos[camera][0]):
        with closing(VideoReader(file, dataset.fps)) as video:
            for step in shown:
                episode = episode_of[step]
                frame = Image.fromarray(video.frame(episode.videos[camera][1] + step - episode.first))
                pictures[step] = frame.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return pictures


# ---------------------------------------------------------------------- pictures and page


def draw_sheet(
    title: str,
    examples: Sequence[Example],
    frames: Mapping[int, Image.Image],
    names: Sequence[str],
    mean_A: NDArray[np.float64],
    target: str,
) -> Image.Image:
    """One code: a column per transition, start above end; beside them bars of ``mean_A``, -1 to 1."""
    gap, head, foot = 6, 22, 18
    bars = 210
    pair = 2 * _THUMBNAIL + gap
    width = gap + len(examples) * (_THUMBNAIL + gap) + bars
    sheet = Image.new("RGB", (width, head + pair + foot + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(14), ImageFont.load_default(10)
    draw.text((gap, 3), title, fill="black", font=font)
    for i, example in enumerate(examples):
        left = gap + i * (_THUMBNAIL + gap)
        sheet.paste(frames[example.start], (left, head))
        sheet.paste(frames[example.end], (left, head + _THUMBNAIL + gap))
        text = f"ep {example.episode} frame {example.frame} tok {example.token}"
        draw.text((left, head + pair + 3), text, fill="#555555", font=small)
    left = width - bars + gap
    middle, half = left + 130, 70
    row = pair / max(len(names), 1)
    draw.text((left, 5), target, fill="#555555", font=small)
    draw.line((middle, head, middle, head + pair), fill="#bbbbbb")
    for i, name in enumerate(names):
        top = head + i * row
        value = float(np.clip(mean_A[i], -1, 1))
        ends = sorted((middle, middle + round(value * half)))
        draw.rectangle((ends[0], top + 0.2 * row, ends[1], top + 0.8 * row), fill="#4878a8")
        draw.text((left, top + row / 2 - 6), name, fill="black", font=small)
    return sheet


def _page(meaning: Inspection, usage_png: bytes, sheets: Mapping[int, Image.Image]) -> str:
    """One file without outside references."""
    rows = "".join(
        f"<tr><td>{html.escape(p.source)}</td><td>{html.escape(p.target)}</td><td>{p.r2:.3f}</td>"
        f"<td>{p.shuffled:.3f} (max {p.shuffled_max:.3f})</td><td>{p.rows}</td></tr>"
        for p in meaning.probes
    )
    health = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in meaning.health.items())
    order = sorted(sheets, key=lambda code: -meaning.counts[code])
    shown = "".join(f'<p><img src="{_jpeg(sheets[code])}"></p>' for code in order[:_PAGE_SHEETS])
    rest = f"<p>{len(order) - _PAGE_SHEETS} more are in codes/.</p>" if len(order) > _PAGE_SHEETS else ""
    usage = "data:image/png;base64," + base64.b64encode(usage_png).decode()
    settings = ", ".join(f"{k} {v}" for k, v in meaning.settings.items())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>What codes mean</title>
<style>body{{font:14px system-ui,sans-serif;margin:2em;max-width:1100px}}table{{border-collapse:collapse}}
td,th{{border:1px solid #ccc;padding:4px 8px;text-align:left}}img{{max-width:100%}}.wide{{overflow-x:auto}}</style>
<h1>{meaning.kind.capitalize()} codes</h1>
<p>Model {html.escape(meaning.model)} ({meaning.model_hash}; {html.escape(settings)}) on
{html.escape(meaning.dataset)} ({meaning.data_hash}).</p>
<h2>Is the codebook used?</h2><p>{health}</p><img src="{usage}">
<h2>What do codes tell of actions?</h2>
<p>R² of a ridge regression over {FOLDS} folds of episodes, each predicted from the others; beside it the same with
the codes shuffled among the steps, {SHUFFLES} times. One-hot codes, and embeddings before quantisation.</p>
<div class="wide"><table><tr><th>from</th><th>to</th><th>R²</th><th>shuffled</th><th>rows</th></tr>{rows}</table></div>
<h2>What is seen where a code is used?</h2>
<p>Each column is one of the transitions nearest to the code's centre: start above, end below; under it the episode,
the frame where it starts and which of its tokens has the code. The bars are the mean over all tokens with the code of
what stands above them, normalised to [-1, 1].</p>
{shown}{rest}</html>
"""


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
