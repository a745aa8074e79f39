"""Released policies of the paper's code, from random weights that are written here in its layout."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_world import save_small_qwen
from transformers import Qwen3VLModel

from lavla_ros import cli
from lavla_ros.contract import Contract, Observation, load_contract
from lavla_ros.policy.folder import CheckpointError
from lavla_ros.policy.fp2t import DEFECTS, Fp2tConfig, Fp2tPolicy
from lavla_ros.policy.fp2t_import import import_fp2t
from lavla_ros.policy.policy import ObservationError, load_policy

WIDTH, BLOCKS, RANK, STEPS, ACTIONS, STATES = 32, 3, 2, 8, 7, 8
LAST = "checkpoints/step-000020-epoch-01-loss=0.1000.pt"
CONTRACT = load_contract("libero")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp("base") / "qwen")


def released(base: Path, method: str = "la_direct", *, separate: bool = False) -> dict[str, torch.Tensor]:
    """The state of the released network: frozen base, adapters, head, and what only its losses need."""
    draw = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {}
    found: dict[str, torch.Tensor] = {}
    vlm = Qwen3VLModel.from_pretrained(base)
    linear = {name for name, module in vlm.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, tensor in vlm.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        inside = f"vlm.base_model.model.model.{layer}"
        found[f"{inside}.base_layer.{kind}" if layer in linear else f"{inside}.{kind}"] = tensor.clone()
        if layer in linear and kind == "weight":
            shapes[f"{inside}.lora_A.default.weight"] = (RANK, tensor.shape[1])
            shapes[f"{inside}.lora_B.default.weight"] = (tensor.shape[0], RANK)
    found["vlm.base_model.model.lm_head.weight"] = vlm.language_model.embed_tokens.weight.detach().clone()

    def layer(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    layer("proprio_projector.fc1", WIDTH, STATES)
    layer("proprio_projector.fc2", WIDTH, WIDTH)
    model = "action_head.model"
    norm(f"{model}.layer_norm1", WIDTH * ACTIONS)
    layer(f"{model}.fc1", WIDTH, WIDTH * ACTIONS)
    norm(f"{model}.layer_norm2", WIDTH)
    layer(f"{model}.fc2", ACTIONS, WIDTH)
    kinds = ("self", "adapter", "task") if separate else ("proj",)
    for number in range(BLOCKS):
        block = f"{model}.mlp_resnet_blocks.{number}"
        norm(f"{block}.ffn.0", WIDTH)
        for name in ("ffn.1", "q_proj", "o_proj", *(f"{letter}_{kind}" for letter in "kv" for kind in kinds)):
            layer(f"{block}.{name}", WIDTH, WIDTH)
        shapes[f"{block}.gating_factor"] = (1,)
        if separate:
            layer(f"{block}.film_gen.0", 2 * WIDTH, WIDTH)
    if method in ("la_direct", "la_cond"):
        shapes["pooling.query"] = (WIDTH,)
    if method == "la_align":
        for name, rows, columns in (("fc1", 256, WIDTH), ("fc2", 128, 256), ("latent_fc", 128, 128)):
            layer(f"latent_action_head.{name}", rows, columns)
        norm("latent_action_head.norm", WIDTH)
    return found | {name: 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def run_folder(folder: Path, tensors: dict[str, torch.Tensor], method: str = "la_direct", **said: object) -> Path:
    """What a training run leaves."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, folder / LAST)
    (folder / "config.yaml").write_text(json.dumps({"vla_id": method, "num_images_in_input": 2, **said}))

    def columns(width: int) -> dict[str, list[float]]:
        low, high = np.linspace(-1.0, -0.5, width), np.linspace(0.5, 2.0, width)
        found = {"q01": low, "q99": high, "min": low - 1, "max": high + 1, "mean": low, "std": high}
        return {key: list(map(float, values)) for key, values in found.items()}

    proprio = columns(STATES + 1)
    for values in proprio.values():
        values[6] = 0.0  # between pose and fingers
    statistics = {"libero_object": {"action": columns(ACTIONS) | {"mask": [True] * 6 + [False]}, "proprio": proprio}}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    return folder


def observation(contract: Contract = CONTRACT) -> Observation:
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in contract.cameras}
    state = rng.normal(0, 0.3, contract.state_dim).astype(np.float32)
    return Observation(stamp_ns=0, images=images, state=state, instruction="Put it there")


def taken(base: Path, folder: Path, method: str = "la_direct", *, separate: bool = False) -> Fp2tPolicy:
    tensors = released(base, method, separate=separate)
    run = run_folder(folder / "run", tensors, method, use_pro_version=separate)
    import_fp2t(run, folder / "ours", CONTRACT, base=str(base), as_released=True)
    policy = load_policy(folder / "ours")
    assert isinstance(policy, Fp2tPolicy)
    return policy


# ------------------------------------------------------------------ the forward pass


def expected_actions(
    tensors: dict[str, torch.Tensor], hidden: list[torch.Tensor], places: list[int], state: np.ndarray
) -> np.ndarray:
    """LA-Direct's head, number by number: for each step and each attention head in turn."""

    def get(name: str) -> np.ndarray:
        return tensors[name].double().numpy()

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * get(f"{name}.weight") + get(f"{name}.bias")

    def gelu(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * v * (1 + float(torch.erf(torch.tensor(v / 2**0.5)))) for v in x])

    model = "action_head.model"
    robot = layer("proprio_projector.fc2", gelu(layer("proprio_projector.fc1", state.astype(float))))[None]
    start = np.maximum(layer(f"{model}.fc1", norm(f"{model}.layer_norm1", np.zeros(WIDTH * ACTIONS))), 0)
    x = np.tile(start, (STEPS, 1))
    for number in range(BLOCKS):
        name = f"{model}.mlp_resnet_blocks.{number}"
        sequence = hidden[len(hidden) - BLOCKS + number][0].double().numpy()
        tokens = sequence[places].reshape(STEPS, 4, WIDTH)
        scores = np.exp(tokens @ get("pooling.query"))
        pooled = np.einsum("hp,hpd->pd", scores / scores.sum(0), tokens)  # over the chunk: 4 remain
        states = np.concatenate([sequence[:512], pooled])
        sources = np.concatenate([x, states[512:], robot, states[:512]])
        gate = np.ones(len(sources))
        gate[-len(states[:512]) :] = np.tanh(get(f"{name}.gating_factor"))[0]
        q, k, v = layer(f"{name}.q_proj", x), layer(f"{name}.k_proj", sources), layer(f"{name}.v_proj", sources)
        out = np.zeros_like(x)
        for head in range(8):
            part = slice(head * WIDTH // 8, (head + 1) * WIDTH // 8)
            weights = np.exp(q[:, part] @ k[:, part].T * gate / np.sqrt(WIDTH // 8))
            out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
        x = np.maximum(layer(f"{name}.ffn.1", norm(f"{name}.ffn.0", layer(f"{name}.o_proj", out) + x)), 0)
    return layer(f"{model}.fc2", norm(f"{model}.layer_norm2", x))


def test_the_network_is_the_released_one_defects_included(base: Path, tmp_path: Path) -> None:
    policy = taken(base, tmp_path)
    seen = observation()
    kept = {}
    policy.head.register_forward_pre_hook(lambda _, given: kept.update(hidden=given[0], places=given[1]))
    actions = policy.predict(seen).actions_HA
    state = np.array(seen.state)
    low, high = np.delete(np.linspace(-1, -0.5, 9), 6), np.delete(np.linspace(0.5, 2, 9), 6)
    coded_state = np.clip(2 * (state - low) / (high - low) - 1, -1, 1)
    places = kept["places"].tolist()
    assert len(places) == 4 * STEPS and len(kept["hidden"]) == 5  # four layers and the embeddings
    coded = expected_actions(released(base), kept["hidden"], places, coded_state)
    low, high = np.linspace(-1, -0.5, 7), np.linspace(0.5, 2, 7)
    expected = (coded + 1) / 2 * (high - low) + low
    expected[:, 6] = 1 - 2 * coded[:, 6]  # from 1 open, 0 closed, and never scaled
    np.testing.assert_allclose(actions, np.clip(expected, -1, 1), atol=2e-4)
    assert np.ptp(coded, axis=0).max() < 1e-9, "all steps are one action"


def test_the_adapters_are_in_what_the_backbone_computes(base: Path, tmp_path: Path) -> None:
    policy = taken(base, tmp_path, "la_cond")
    tensors = released(base, "la_cond")
    name = "language_model.layers.1.mlp.up_proj"
    inside = f"vlm.base_model.model.model.{name}"
    change = tensors[f"{inside}.lora_B.default.weight"] @ tensors[f"{inside}.lora_A.default.weight"]
    expected = tensors[f"{inside}.base_layer.weight"] + 16 / RANK * change
    torch.testing.assert_close(policy.vlm.get_submodule(name).weight, expected)


@pytest.mark.parametrize(
    ("method", "separate", "read"),
    [("baseline", False, 40), ("la_align", False, 8), ("la_cond", True, 40), ("la_tok", False, 8)],
)
def test_all_methods_with_their_placeholders(
    base: Path, tmp_path: Path, method: str, separate: bool, read: int
) -> None:
    policy = taken(base, tmp_path, method, separate=separate)
    tokens, places = policy.prompt("put it <|im_end|> there")
    assert len(places) == read and len({tokens[i] for i in places}) == 1
    ends = policy._special("<|im_end|>")[0]
    assert tokens.count(ends) == 1, "an instruction cannot end the turn"
    chunk = policy.predict(observation())
    assert chunk.actions_HA.shape == (STEPS, ACTIONS) and np.isfinite(chunk.actions_HA).all()
    assert np.array_equal(policy.predict(observation()).actions_HA, chunk.actions_HA)
    # the rotary embedding alone tells the steps apart
    assert (
        bool(np.ptp(policy.coded([*observation().images.values()], "it", np.zeros(8, np.float32)), axis=0).max() > 1e-4)
        == separate
    )


def test_observations_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    policy = taken(base, tmp_path)
    seen = observation()
    with pytest.raises(ObservationError, match="no image of camera 'wrist'"):
        policy.predict(replace(seen, images={"agentview": seen.images["agentview"]}))


# ------------------------------------------------------------------ bad input


def test_defects_are_refused_by_name_unless_they_are_asked_for(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", released(base))
    with pytest.raises(CheckpointError, match="cannot be run without them: the head takes all states") as refused:
        import_fp2t(run, tmp_path / "ours", CONTRACT, base=str(base))
    assert DEFECTS["pooled_over_chunk"] in str(refused.value) and DEFECTS["mixed_rope"] not in str(refused.value)
    assert "as_released=true" in str(refused.value) and not (tmp_path / "ours").exists()
    said = ["import", "fp2t", str(run), "--contract", "libero", "--out", str(tmp_path / "ours"), "-o", f"base={base}"]
    cli.main([*said, "-o", "as_released=true"])
    assert DEFECTS["constant_queries"] in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="exists already"):
        import_fp2t(run, tmp_path / "ours", CONTRACT, base=str(base), as_released=True)
    with pytest.raises(SystemExit):
        cli.main([*said, "-o", "colour=red"])
    assert "fp2t has no option ['colour']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling.query": None}, r"does not fit la_direct .*\n  missing pooling\.query$"),
        ({"extra.weight": torch.zeros(2)}, r"\n  unexpected extra\.weight$"),
        (
            {"action_head.model.fc2.weight": torch.zeros(5, WIDTH)},
            r"fc2\.weight has shape \(5, 32\), expected \(7, 32\)",
        ),
        ({"proprio_projector.fc1.bias": torch.full((WIDTH,), torch.nan)}, "fc1.bias holds values that are not finite"),
        (
            {"vlm.base_model.model.model.language_model.norm.weight": torch.full((WIDTH,), 2.0)},
            r"language_model\.norm\.weight is not that of the base model .* it differs by 1\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    base: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (released(base) | change).items() if tensor is not None}
    run = run_folder(tmp_path / "run", tensors)
    with pytest.raises(CheckpointError) as refused:
        import_fp2t(run, tmp_path / "ours", CONTRACT, base=str(base), as_released=True)
    assert re.search(message, str(refused.value).replace("(it", "it")), refused.value
    assert not (tmp_path / "ours").exists()


def test_files_of_a_run_that_are_missing_or_do_not_fit(base: Path, tmp_path: Path) -> None:
    tensors = released(base)
    run = run_folder(tmp_path / "run", tensors)

    def attempt(source: Path = run, contract: Contract = CONTRACT, **said: object) -> None:
        import_fp2t(source, tmp_path / "ours", contract, base=str(base), as_released=True, **said)

    with pytest.raises(CheckpointError, match="not a run of the paper's code"):
        attempt(base)
    with pytest.raises(CheckpointError, match="vla_id 'pi0'; expected one of"):
        attempt(method="pi0")
    with pytest.raises(CheckpointError, match="do not fit contract 'jaka_minicobo'"):
        attempt(contract=load_contract("jaka_minicobo"))
    statistics = json.loads((run / "dataset_statistics.json").read_text())
    (run / "dataset_statistics.json").write_text(json.dumps({**statistics, "libero_goal": {}}))
    with pytest.raises(CheckpointError, match=r"datasets \['libero_goal', 'libero_object'\]; say which"):
        attempt()
    (run / "dataset_statistics.json").unlink()
    with pytest.raises(CheckpointError, match=r"dataset_statistics\.json cannot be read"):
        attempt()
    torch.save({"a": Path("/")}, run / LAST)
    run_folder(tmp_path / "other", tensors)
    (tmp_path / "other" / LAST).write_bytes((run / LAST).read_bytes())
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        attempt(tmp_path / "other")


def test_one_file_of_tensors_alone(base: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", released(base))
    save_file(released(base), tmp_path / "run/weights.safetensors")
    (run / "config.yaml").unlink()
    import_fp2t(
        tmp_path / "run/weights.safetensors",
        tmp_path / "ours",
        CONTRACT,
        base=str(base),
        as_released=True,
        method="la_direct",
    )
    assert load_policy(tmp_path / "ours").predict(observation()).actions_HA.shape == (STEPS, ACTIONS)


def test_another_base_model_is_refused_when_the_policy_is_run(base: Path, tmp_path: Path) -> None:
    taken(base, tmp_path)
    file = tmp_path / "ours/config.yaml"
    file.write_text(re.sub(r"(?m)^base: .*$", "base: 0123", file.read_text()))
    with pytest.raises(CheckpointError, match="was trained on another base model"):
        load_policy(tmp_path / "ours")


def test_what_a_method_reads_is_that_of_the_released_code() -> None:
    counts = {m: Fp2tConfig(method=m, base="x").placeholders(8) for m in ("baseline", "la_align", "la_direct")}
    assert counts == {"baseline": (40, 40, 40), "la_align": (40, 40, 8), "la_direct": (8, 32, 32)}
