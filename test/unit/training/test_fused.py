"""The network as it is run: the same actions as the one that is trained, in operations that a CUDA graph can hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import INSTRUCTION
from torch import Tensor
from transformers import Qwen3VLModel

from benchmarks.kernels import count
from benchmarks.qwen import qwen_config
from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy import runner
from lavla_ros.policy.adapters import without_joining
from lavla_ros.policy.backbone import Backbone, build_backbone
from lavla_ros.policy.checkpoint import load_checkpoint, prompt_builder
from lavla_ros.policy.config import BackboneConfig, HeadConfig, LoraConfig, PolicyConfig, StrategyConfig, TinyConfig
from lavla_ros.policy.fused import FusedPolicy
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.policy import BUNDLED
from lavla_ros.policy.prompt import PromptBuilder, token_ids, train_tokenizer
from lavla_ros.policy.runner import Replay, Runner
from lavla_ros.policy.strategies import STRATEGIES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("jaka_minicobo")


@pytest.fixture(scope="module")
def tokenizer(contract: Contract):
    return train_tokenizer([INSTRUCTION], 300, contract.chunk_size)


@pytest.fixture
def make(contract: Contract, tokenizer) -> Callable[..., tuple[LatentActionVLA, PromptBuilder]]:
    """A random policy on a backbone of the pretrained kind, its adapters and gates large enough to matter."""

    def make(strategy: str = "baseline", *, deep: bool = False, kind: str = "pretrained", chat: bool = False, **head):
        torch.manual_seed(0)
        ids = replace(token_ids(tokenizer), before=(40, 41, 42) if chat else ())
        config = PolicyConfig(
            backbone=BackboneConfig(kind=kind, lora=LoraConfig(rank=2), tiny=TinyConfig(vocab_size=300)),
            strategy=StrategyConfig(name=strategy),
            head=HeadConfig(heads=4, vision_gate=0.7, **head),
        )
        if kind == "tiny":
            backbone = build_backbone(config.backbone, tokenizer)
        else:
            backbone = Backbone(config.backbone, Qwen3VLModel(qwen_config("small", ids, deep=deep)), ids)
        model = LatentActionVLA(config, contract, backbone).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or name.endswith("step_keys"):
                    parameter.normal_(std=0.1)
                elif "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model, prompt_builder(model, contract, tokenizer)

    return make


def inputs(model: LatentActionVLA, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng, size = torch.Generator().manual_seed(seed), model.backbone.image_size
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=rng)
    return pixels, torch.randn(7, generator=rng)


@torch.no_grad()
def expected(model: LatentActionVLA, prompt: PromptBuilder, pixels: Tensor, state: Tensor, text: str) -> Tensor:
    return model(pixels[None], prompt([text]), state[None]).actions_BHA[0]


def run(fused: FusedPolicy, tokens: Tensor, pixels: Tensor, state: Tensor) -> Tensor:
    prompt = fused.prompt(tokens)
    with torch.no_grad():
        return fused(pixels, state, prompt.embeddings_LD, prompt.columns_n, prompt.tables)


@pytest.mark.parametrize(
    ("strategy", "kind", "head"),
    [
        *((strategy, kind, {}) for strategy in STRATEGIES for kind in ("tiny", "pretrained")),
        *((strategy, "tiny", {"kv": "shared", "step_positions": True}) for strategy in ("baseline", "la_cond")),
        ("la_cond", "pretrained", {"chat": True}),
    ],
)
def test_the_actions_are_those_of_the_trained_network(make, strategy: str, kind: str, head) -> None:
    """Within 2e-5 of a range of 1 in float32, for every strategy; padding behind the prompt changes nothing."""
    model, prompt = make(strategy, kind=kind, **head)
    pixels, state = inputs(model)
    wanted = expected(model, prompt, pixels, state, INSTRUCTION)
    fused = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    tokens = prompt([INSTRUCTION])[0]
    found = run(fused, tokens, pixels, state)
    assert found.shape == wanted.shape and wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    padded = run(fused, torch.nn.functional.pad(tokens, (0, 11), value=0), pixels, state)
    torch.testing.assert_close(padded, wanted, rtol=0, atol=2e-5)


def test_the_bundled_policys_actions_are_its_own() -> None:
    loaded = load_checkpoint(BUNDLED)
    pixels, state = inputs(loaded.model)
    wanted = expected(loaded.model, loaded.prompt, pixels, state, INSTRUCTION)
    fused = FusedPolicy(loaded.model, cameras=2, device=CPU, dtype=torch.float32)
    torch.testing.assert_close(run(fused, loaded.prompt([INSTRUCTION])[0], pixels, state), wanted, rtol=0, atol=5e-6)


def test_in_bfloat16_it_is_as_close_as_the_trained_network_in_bfloat16(make) -> None:
    """Over three observations."""

    def error(found: list[Tensor]) -> float:
        return float(torch.stack([(f - w).square().mean() for f, w in zip(found, wanted, strict=True)]).mean().sqrt())

    model, prompt = make()
    observations = [inputs(model, seed) for seed in range(3)]
    wanted = [expected(model, prompt, *observation, INSTRUCTION) for observation in observations]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    trained = [expected(model, prompt, *observation, INSTRUCTION).float() for observation in observations]
    model, prompt = make()
    fused = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.bfloat16)
    tokens = prompt([INSTRUCTION])[0]
    found = [run(fused, tokens, *observation) for observation in observations]
    assert found[0].dtype == torch.float32
    assert 0 < error(found) < 1.2 * error(trained)


def test_kernels_at_the_depth_of_the_real_model(make) -> None:
    """What a chunk costs before any arithmetic: launches, and waits of the host, of which there must be none."""
    model, prompt = make("la_cond", deep=True)
    pixels, state = inputs(model)
    tokens = prompt([INSTRUCTION])
    with torch.no_grad():
        model(pixels[None], tokens, state[None])  # what depends on the prompt's length is computed once
        trained = count(lambda: model(pixels[None], tokens, state[None]))
        fused = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
        prepared = fused.prompt(tokens[0])
        merged = count(lambda: fused(pixels, state, prepared.embeddings_LD, prepared.columns_n, prepared.tables))
    assert not trained.waits and not merged.waits
    assert sum(merged.kernels.values()) < 1000 and sum(trained.kernels.values()) < 2300


def test_a_training_step_is_computed_in_few_operations_with_peft_s_results(make) -> None:
    """Adapters that read the same input are joined: the same loss and gradients, up to rounding, in fewer kernels."""
    model, prompt = make()
    pixels, state = inputs(model)
    images, tokens, states = pixels[None].repeat(2, 1, 1, 1, 1), prompt([INSTRUCTION, "stack"]), state.repeat(2, 1)

    def step() -> dict[str, Tensor]:
        loss = model.train()(images, tokens, states).actions_BHA.square().mean()
        loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return {"loss": loss.detach(), **found}

    ours, counted = step(), count(step).kernels
    without_joining(model)
    wanted, stock = step(), count(step).kernels
    assert ours.keys() == wanted.keys() and sum("lora_" in name for name in ours) == 92
    for name, value in wanted.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert counted["mm"] < 0.8 * stock["mm"] and sum(counted.values()) < 0.93 * sum(stock.values())


def test_a_backbone_in_bfloat16_is_as_close_to_float32_without_autocast_as_with_it(make, monkeypatch) -> None:
    """It has nothing to cast but the adapters, so autocast is left to the head."""
    model, prompt = make()
    observations = [inputs(model, seed) for seed in range(3)]
    wanted = [expected(model, prompt, *observation, INSTRUCTION) for observation in observations]
    for name, parameter in model.backbone.vlm.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    assert model.backbone.computes_in_bfloat16
    norms: list[torch.dtype] = []
    model.backbone.vlm.visual.blocks[0].norm1.register_forward_hook(lambda *seen: norms.append(seen[2].dtype))
    errors = []
    for without in (True, False):
        monkeypatch.setattr(Backbone, "computes_in_bfloat16", without)
        with torch.autocast("cpu", torch.bfloat16):
            found = [expected(model, prompt, *observation, INSTRUCTION).float() for observation in observations]
        errors.append(float(torch.stack([(f - w).square() for f, w in zip(found, wanted, strict=True)]).mean().sqrt()))
    assert 0 < errors[0] < 1.2 * errors[1] and set(norms) == {torch.bfloat16}


def test_waits_are_noticed() -> None:
    mask = torch.tensor([True, False])
    waits = count(lambda: (mask.nonzero(), mask.sum().item(), mask.tolist(), mask[mask])).waits
    assert waits == {"nonzero": 1, "_local_scalar_dense": 1, "tolist": 1, "index": 1}


def test_the_forward_pass_can_be_exported(make) -> None:
    """One graph for all of it: no shape and no branch depends on the value of a tensor. It computes the same."""
    model, prompt = make("la_cond")
    pixels, state = inputs(model)
    fused = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    prepared = fused.prompt(prompt([INSTRUCTION])[0])
    arguments = (pixels, state, prepared.embeddings_LD, prepared.columns_n, prepared.tables)
    exported = torch.export.export(fused, arguments)
    torch.testing.assert_close(exported.module()(*arguments), fused(*arguments), rtol=0, atol=1e-5)


def test_the_trained_networks_pass_can_be_exported(make) -> None:
    model, prompt = make("la_cond", kind="tiny")
    pixels, state = inputs(model)
    model.requires_grad_(False)

    class Actions(torch.nn.Module):
        def forward(self, images: Tensor, tokens: Tensor, state: Tensor) -> Tensor:
            return model(images, tokens, state).actions_BHA

    arguments = (pixels[None], prompt([INSTRUCTION]), state[None])
    model(*arguments)
    torch.export.export(Actions(), arguments)


def test_a_traced_network_gives_the_same_bits(make, monkeypatch) -> None:
    """On a CPU, for every prompt length, from the first inference to those after the tracer has settled."""
    model, prompt = make("la_cond", kind="tiny")
    network = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    traced = Runner(network, lambda text: prompt([text])[0], pad=0)
    monkeypatch.setattr(runner, "TRACED", 0)
    plain = Runner(network, lambda text: prompt([text])[0], pad=0)
    for i in range(8):
        pixels, state = inputs(model, i)
        text = (INSTRUCTION, "stack")[i % 2]
        found, wanted = (run(pixels.numpy(), state.numpy(), text) for run in (traced, plain))
        np.testing.assert_array_equal(found, wanted)
    assert len(traced._traced) == 2 and not plain._traced


def test_an_instruction_of_another_length_does_not_wait_to_be_traced(make, monkeypatch) -> None:
    """The arm's next chunk comes at once, from the network as it is, and to the same bits."""
    model, prompt = make("baseline", kind="tiny")
    network = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    run = Runner(network, lambda text: prompt([text])[0], pad=0)
    pixels, state = (each.numpy() for each in inputs(model))
    run(pixels, state, INSTRUCTION)
    go, trace = threading.Event(), runner._traced
    monkeypatch.setattr(runner, "_traced", lambda *asked: (go.wait(30), trace(*asked))[1])
    found = run(pixels, state, "stack")
    (_, warmed), (_, asked) = run._traced.items()
    assert warmed.done() and not asked.done()
    go.set()
    asked.result(30)
    np.testing.assert_array_equal(run(pixels, state, "stack"), found)
    for thread in threading.enumerate():
        if thread.name.startswith("trace"):  # as long as one is there, several threads of an inference are slow
            thread.join(30)
            assert not thread.is_alive()


def test_buffers_of_a_recording_follow_pixels_state_and_prompt(make) -> None:
    """As on a GPU, with a stand-in for the CUDA graph: a new instruction of like length needs no new recording."""
    model, prompt = make()
    wanted = {}
    texts = (INSTRUCTION, "stack", INSTRUCTION)
    for i, text in enumerate(texts):
        pixels, state = inputs(model, i)
        wanted[i] = expected(model, prompt, pixels, state, text)
    network = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    recordings: list[int] = []

    def record(compute: Callable[[], None]) -> Replay:
        recordings.append(1)
        compute()
        return compute

    recording = Runner(network, lambda text: prompt([text])[0], pad=0, record=record)
    for i, text in enumerate(texts):
        pixels, state = inputs(model, i)
        found = recording(pixels.numpy(), state.numpy(), text)
        np.testing.assert_allclose(found, wanted[i], rtol=0, atol=2e-5)
    assert len(recordings) == 1
    recording(pixels.numpy(), state.numpy(), "a much longer instruction " * 6)
    assert len(recordings) == 2


def test_a_recording_that_computes_something_else_is_not_used(make, monkeypatch, caplog) -> None:
    model, prompt = make()
    pixels, state = inputs(model)
    wanted = expected(model, prompt, pixels, state, INSTRUCTION)
    network = FusedPolicy(model, cameras=2, device=CPU, dtype=torch.float32)
    forward, replaying = network.forward, [False]
    monkeypatch.setattr(network, "forward", lambda *arguments: forward(*arguments) + float(replaying[0]))

    def record(compute: Callable[[], None]) -> Replay:
        def replay() -> None:
            replaying[0] = True
            compute()
            replaying[0] = False

        return replay

    recording = Runner(network, lambda text: prompt([text])[0], pad=0, record=record)
    for _ in range(2):
        np.testing.assert_allclose(recording(pixels.numpy(), state.numpy(), INSTRUCTION), wanted, rtol=0, atol=2e-5)
    assert "a recorded inference differs from a computed one by 1 of the normalised actions" in caplog.text
