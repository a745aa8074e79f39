"""Speed of the full-size policy on one GPU, the obvious implementation beside ours: `python -m benchmarks.gpu`.

One call prints the whole table in less than ten minutes: latency of a chunk, eager to CUDA graph; throughput of a
training step, with model FLOP utilisation; kernels and waits of a forward pass; and how far the actions are from those
of float32. It needs torch, transformers and peft, no download, no dataset and no ROS: weights and inputs are random,
which time does not depend on. Every line is printed when it is known, so a call that is cut short says what it has.
`--size small --device cpu` shows on any machine that it runs.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLModel

from benchmarks.config import FULL_SIZE
from benchmarks.kernels import count
from benchmarks.qwen import INSTRUCTION, qwen_config
from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy.adapters import without_joining
from lavla_ros.policy.backbone import Backbone
from lavla_ros.policy.config import BackboneConfig, HeadConfig, LoraConfig, PolicyConfig, StrategyConfig
from lavla_ros.policy.fused import FusedPolicy
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.prompt import PromptBuilder, token_ids, train_tokenizer
from lavla_ros.policy.runner import LENGTH_STEP, Runner, record_cuda_graph
from lavla_ros.policy.strategies import pool_steps

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""bfloat16 without sparsity, by the makers' data sheets (SXM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One policy with random weights, and an observation for it."""

    model: LatentActionVLA
    prompt: PromptBuilder
    pixels: Tensor
    state: Tensor

    @property
    def tokens(self) -> Tensor:
        """(1, L) on the policy's device."""
        return self.prompt([INSTRUCTION]).to(self.pixels.device)

    def tokens_of(self, instruction: str) -> Tensor:
        """(L,) on the host."""
        return self.prompt([instruction])[0]


def build(strategy: str, size: str, device: torch.device, dtype: torch.dtype) -> Setup:
    """``dtype``: of the frozen weights; adapters and head are float32."""
    contract = load_contract("jaka_minicobo")
    tokenizer = train_tokenizer([INSTRUCTION], 300, contract.chunk_size)
    ids = token_ids(tokenizer)
    lora = LoraConfig() if size == "2b" else LoraConfig(rank=4)
    config = PolicyConfig(
        backbone=BackboneConfig(kind="pretrained", lora=lora),
        head=HeadConfig(heads=8, kv="shared", ffn_ratio=0.25, vision_gate=0.5),  # the paper's recipes'
        strategy=StrategyConfig(name=strategy),
    )
    torch.manual_seed(0)
    with torch.device(device):
        vlm = Qwen3VLModel(qwen_config(size, ids))
        for parameter in vlm.parameters():  # rounded as they are stored; buffers are not
            parameter.data = parameter.data.to(torch.bfloat16).to(dtype)
        model = LatentActionVLA(config, contract, Backbone(config.backbone, vlm, ids))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    prompt = PromptBuilder(
        tokenizer,
        ids,
        cameras=len(contract.cameras),
        image_tokens=model.backbone.image_tokens,
        chunk_size=contract.chunk_size,
        segments=model.strategy.segments(),
    )
    side = model.backbone.image_size
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(contract.cameras), side, side, 3), dtype=torch.uint8, generator=rng)
    return Setup(
        model=model.eval(),
        prompt=prompt,
        pixels=pixels.to(device),
        state=torch.randn(contract.state_dim, generator=rng).to(device),
    )


# The obvious implementation: the library's own forward pass, all hidden states, types by autocast.


def naive_actions(setup: Setup, images: Tensor, tokens: Tensor, state: Tensor) -> Tensor:
    """What :meth:`LatentActionVLA.forward` gives, from transformers' forward pass and selection by masks."""
    model, backbone = setup.model, setup.model.backbone
    grid = torch.tensor([backbone.grid] * (images.shape[0] * images.shape[1]), device=images.device)
    is_image = tokens == backbone.ids.image
    vision = backbone.vlm.visual(backbone.vision_pixels(images), grid_thw=grid, return_dict=True)
    embeddings = backbone.embed(tokens)
    embeddings = embeddings.masked_scatter(is_image[..., None], vision.pooler_output.to(embeddings.dtype))
    positions = backbone.vlm.get_rope_index(tokens, mm_token_type_ids=is_image.to(torch.int32), image_grid_thw=grid)[0]
    hidden = backbone.vlm.language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        visual_pos_masks=is_image,
        deepstack_visual_embeds=vision.deepstack_features,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    segments = {s.kind: s for s in model.strategy.segments()}
    places = {k: tokens == backbone.placeholder_id(k) for k in model.strategy.head_segments()}

    def selected(k: int, mask: Tensor) -> Tensor:
        return hidden[k][mask].view(tokens.shape[0], -1, hidden[k].shape[-1])

    actions: Tensor = model.head(
        [selected(k, is_image) for k in model.layers],
        [torch.cat([pool_steps(selected(k, m), segments[s]) for s, m in places.items()], dim=1) for k in model.layers],
        state,
    )
    return actions


def as_the_libraries_do(setup: Setup) -> None:
    """Give the vision model its stock attention back, and the adapters peft's own forward pass."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention

    for module in setup.model.modules():
        if isinstance(module, Qwen3VLVisionAttention):
            module.__class__ = Qwen3VLVisionAttention
    without_joining(setup.model)


# Inference.


def inference(
    size: str, device: torch.device, rounds: int, strategies: Sequence[str], *, compiling: bool
) -> Iterator[dict[str, Any]]:
    for strategy in strategies:
        setup = build(strategy, size, device, torch.float32)
        as_the_libraries_do(setup)
        naive = partial(naive_chunk, setup)
        wanted, tflop = naive(), forward_flops(setup) / 1e12
        title = f"{strategy}: float32, adapters, stock forward pass"
        yield latency(title, naive, wanted, rounds // 4) | counted(naive) | {"tflop": round(tflop, 3)}
        for dtype in (torch.float32, torch.bfloat16):
            source = copy.deepcopy(setup.model) if dtype is torch.float32 else setup.model
            network = FusedPolicy(source, cameras=len(setup.pixels), device=device, dtype=dtype)
            del source
            name = f"{strategy}: {str(dtype).removeprefix('torch.')}"
            yield from fused_inference(name, setup, network, wanted, rounds, compiling=compiling)
            del network
            collect(device)
        del setup, naive
        collect(device)


def fused_inference(
    title: str, setup: Setup, network: FusedPolicy, wanted: np.ndarray[Any, Any], rounds: int, *, compiling: bool
) -> Iterator[dict[str, Any]]:
    cuda = network.device.type == "cuda"
    pixels, state = setup.pixels.cpu().numpy(), setup.state.cpu().numpy()
    eager = partial(Runner(network, setup.tokens_of, pad=0), pixels, state, INSTRUCTION)
    prepared = network.prompt(setup.tokens[0])
    once = partial(network, setup.pixels, setup.state, prepared.embeddings_LD, prepared.columns_n, prepared.tables)
    name = f"{title}, merged and fused, eager"
    if not cuda:
        yield latency(name, eager, wanted, rounds) | counted(once)
        return
    # where there is a GPU a Runner records; eager is the network itself, with its copies
    yield latency(name, partial(to_host, once), wanted, rounds) | counted(once)
    replayed = partial(Runner(network, setup.tokens_of, pad=0, record=record_cuda_graph), pixels, state, INSTRUCTION)
    name = f"{title}, merged and fused, CUDA graph"
    yield {"what": name} | guarded(partial(latency, name, replayed, wanted, rounds))
    if compiling and network.dtype is torch.bfloat16:
        network.compile(fullgraph=True)
        compiled = Runner(network, setup.tokens_of, pad=0, record=record_cuda_graph)
        name = f"{title}, merged and fused, torch.compile in a CUDA graph"
        yield {"what": name} | guarded(
            partial(latency, name, partial(compiled, pixels, state, INSTRUCTION), wanted, rounds)
        )


@torch.inference_mode()
def to_host(compute: Callable[[], Tensor]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = compute().cpu().numpy()
    return found


@torch.inference_mode()
def naive_chunk(setup: Setup) -> np.ndarray[Any, Any]:
    actions = naive_actions(setup, setup.pixels[None], setup.tokens, setup.state[None])
    found: np.ndarray[Any, Any] = actions[0].float().cpu().numpy()
    return found


def counted(compute: Callable[[], object]) -> dict[str, int]:
    """Kernels and waits."""
    counts = count(compute)
    return {"kernels": sum(counts.kernels.values()), "waits": sum(counts.waits.values())}


def forward_flops(setup: Setup) -> int:
    """Of one forward pass on one sample."""
    with FlopCounterMode(display=False) as flops:
        setup.model(setup.pixels[None], setup.tokens, setup.state[None])
    return int(flops.get_total_flops())


def latency(
    what: str, compute: Callable[[], np.ndarray[Any, Any]], wanted: np.ndarray[Any, Any], rounds: int
) -> dict[str, Any]:
    """From pixels on the host to actions on the host. ``wanted``: the actions that float32 gives."""
    found = compute()
    for _ in range(3):
        compute()
    times = []
    for _ in range(max(2, rounds)):
        begin = time.perf_counter()
        compute()
        times.append(1e3 * (time.perf_counter() - begin))
    scale = float(np.sqrt(np.mean(np.square(wanted))))
    return {
        "what": what,
        "p50_ms": round(float(np.percentile(times, 50)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
        "error_rms": float(np.sqrt(np.mean(np.square(found - wanted)))) / scale,
        "error_max": float(np.abs(found - wanted).max()),
    }


# Training.


def training(
    size: str, device: torch.device, steps: int, micro_batches: Sequence[int], strategy: str, *, compiling: bool
) -> Iterator[dict[str, Any]]:
    """Forward pass, backward pass, clip and AdamW, on a batch that is there: what reading costs is not in it."""
    peak = next((value for name, value in PEAK_TFLOPS.items() if name in device_name(device)), None)
    for variant in ("naive", "ours", "ours, layers compiled", "ours, recomputing"):
        if "compiled" in variant and not compiling:
            continue
        at_rest = torch.float32 if variant == "naive" else torch.bfloat16
        setup = build(strategy, size, device, at_rest)
        model = setup.model.train()
        if variant == "naive":
            as_the_libraries_do(setup)
        if "compiled" in variant:
            for layer in model.repeated_layers():
                layer.compile()
        if "recomputing" in variant:
            model.backbone.vlm.gradient_checkpointing_enable()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        for batch in micro_batches:
            measure = partial(step_figures, setup, optimizer, trained, batch, steps, peak, naive=variant == "naive")
            if "compiled" not in variant and batch == micro_batches[0]:
                measure = partial(measure, counting=True)
            yield {"what": f"{variant}, micro-batch {batch}"} | guarded(measure)
            optimizer.zero_grad(set_to_none=True)
            collect(device)
        del setup, model, optimizer, trained, measure
        collect(device)


def step_figures(
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    trained: Sequence[Tensor],
    batch: int,
    steps: int,
    peak: float | None,
    *,
    naive: bool,
    counting: bool = False,
) -> dict[str, Any]:
    """``counting``: with kernels and waits of a step, its backward pass and update included."""
    model, device = setup.model, setup.pixels.device
    images = setup.pixels.expand(batch, *setup.pixels.shape).contiguous()
    tokens = setup.tokens
    if not naive:
        tokens = nn.functional.pad(tokens, (0, -tokens.shape[1] % LENGTH_STEP))
    tokens, state = tokens.expand(batch, -1).contiguous(), setup.state.expand(batch, -1)
    contract: Contract = load_contract("jaka_minicobo")
    target = torch.zeros(batch, contract.chunk_size, contract.action_dim, device=device)

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            actions = naive_actions(setup, images, tokens, state) if naive else model(images, tokens, state).actions_BHA
        return (actions.float() - target).square().mean()

    def step() -> None:
        loss = forward()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        if naive:
            loss.item(), norm.item()  # looked at in every step
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    times = []
    for _ in range(steps):
        synchronize(device)
        begin = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    # of the forward pass once more for the gradients of activations; for those of weights, where they are trained
    head = sum(p.numel() for n, p in model.named_parameters() if n.startswith("head.blocks") and p.ndim == 2)
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    length = setup.tokens.shape[1]
    useful = batch * (2 * forward_flops(setup) + 2 * lora * length + 2 * head * length) / 1e12
    figures: dict[str, Any] = {
        "step_ms": round(1e3 * median, 2),
        "samples_per_s": round(batch / median, 1),
        "tflops": round(useful / median, 1),
        "mfu": None if peak is None else round(useful / median / peak, 3),
    }
    if counting:
        figures |= counted(step)
    if device.type == "cuda":
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return figures


# Around it.


def guarded(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Its figures, or what went wrong: one variant that fails must not cost the others."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 (compilers and allocators raise anything)
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}


def collect(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def run(
    *,
    size: str,
    device: torch.device,
    minutes: float,
    rounds: int,
    steps: int,
    micro_batches: Sequence[int],
    parts: Sequence[str],
    strategies: Sequence[str],
    compiling: bool,
) -> dict[str, Any]:
    """All figures that fit into ``minutes``, printed line by line as they come."""
    import transformers

    torch.set_float32_matmul_precision("highest")
    begin = time.monotonic()
    figures: dict[str, Any] = {
        "benchmark": "gpu",
        "size": size,
        "device": device_name(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lines": [],
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "lines"}), flush=True)
    everything = {
        "inference": lambda: inference(size, device, rounds, strategies, compiling=compiling),
        "training": lambda: training(size, device, steps, micro_batches, strategies[0], compiling=compiling),
    }
    for part in parts:
        for line in everything[part]():
            figures["lines"].append({"part": part, **line})
            print(json.dumps(figures["lines"][-1]), flush=True)
            if time.monotonic() - begin > 60 * minutes:
                print(f"stopped after {minutes} minutes", flush=True)
                return figures
    figures["minutes"] = round((time.monotonic() - begin) / 60, 2)
    return figures


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of a policy on a GPU takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("2b", "eighth", "small"), default=FULL_SIZE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=200, help="inferences that are timed, per line")
    parser.add_argument("--strategies", nargs="*", default=["baseline", "la_cond"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(f"{__doc__}\nOf the strategies, the first is trained.")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after this")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps that are timed, per line")
    parser.add_argument("--micro-batches", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--parts", nargs="*", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--no-compile", action="store_true", help="leave out what torch.compile has to make first")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args(argv)
    figures = run(
        size=arguments.size,
        device=torch.device(arguments.device),
        minutes=arguments.minutes,
        rounds=arguments.rounds,
        steps=arguments.steps,
        micro_batches=arguments.micro_batches,
        parts=arguments.parts,
        strategies=arguments.strategies,
        compiling=not arguments.no_compile,
    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
