"""One inference after another with the same network: prepared prompts, and on a GPU one CUDA graph for all of it."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavla_ros.policy.fused import FusedPolicy, PreparedPrompt

PROMPTS = 64
"""Instructions that stay prepared."""
GRAPHS = 4
"""Prompt lengths that stay recorded; each takes the memory of its intermediate results."""
TRACED = 50_000_000
"""Parameters, at most, of a network that is traced: of a larger one Python is no part of the time."""
LENGTH_STEP = 16
"""On a GPU prompts are padded to a multiple of this, so that most instructions share a recording."""
REPLAY_TOLERANCE = 0.02
"""Of normalised actions (-1 to 1): a recording may choose other kernels than a first run, in bfloat16 too."""
_log = logging.getLogger(__name__)

Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]


class Runner:
    """Pixels, state and instruction to normalised actions."""

    def __init__(
        self,
        network: FusedPolicy,
        tokens: Callable[[str], Tensor],
        *,
        pad: int,
        record: Record | None = None,
    ) -> None:
        """``tokens``: the token ids (L,) of an instruction; ``pad``: the id that they are padded with.

        ``record``: given a function that computes from fixed buffers into fixed buffers, one that repeats it; None on
        the CPU, where a small network is traced instead: the same operations, started without Python.
        """
        self._network, self._tokens, self._pad, self._record = network, tokens, pad, record
        self._traces = sum(parameter.numel() for parameter in network.parameters()) <= TRACED
        self._traced: OrderedDict[int, Future[Callable[..., Tensor]]] = OrderedDict()
        self._prompts: OrderedDict[str, PreparedPrompt] = OrderedDict()
        self._recorded: OrderedDict[int, _Recorded] = OrderedDict()

    @torch.inference_mode()
    def __call__(
        self, pixels: NDArray[np.uint8], state_S: NDArray[np.float32], instruction: str
    ) -> NDArray[np.float32]:
        """(cameras, size, size, 3) and (S,) → (H, A). Raises PromptError for an instruction that cannot be used."""
        prompt = self._prompt(instruction)
        if self._record is None:
            inputs = torch.from_numpy(pixels), torch.from_numpy(state_S)
            prepared = prompt.embeddings_LD, prompt.columns_n, prompt.tables
            compute = self._trace(prompt.length, (*inputs, *prepared)) if self._traces else self._network
            actions: Tensor = compute(*inputs, *prepared)
            found: NDArray[np.float32] = actions.numpy()
            return found
        if prompt.length not in self._recorded:
            self._recorded[prompt.length] = _Recorded(self._network, prompt, pixels, state_S, self._record)
        self._recorded.move_to_end(prompt.length)
        _trim(self._recorded, GRAPHS)
        return self._recorded[prompt.length](prompt, pixels, state_S)

    def _trace(self, length: int, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        """The network's operations for prompts of this length, which depend on nothing but shapes.

        They are found by a thread, for it takes some tenths of a second; until it has, the network computes as it is,
        to the same bits. The first inference of all waits for it: that is what a policy is warmed up with.
        """
        wait = not self._traced
        if length not in self._traced:
            tracer = ThreadPoolExecutor(1, "trace")
            self._traced[length] = tracer.submit(_traced, self._network, inputs)
            # Its thread ends with its work: OpenMP would keep a team of threads for it, and no longer let those of the
            # inference wait for one another awake, which doubles the time of an inference by several threads.
            tracer.shutdown(wait=False)
        self._traced.move_to_end(length)
        _trim(self._traced, GRAPHS)
        found = self._traced[length]
        return found.result() if wait or found.done() else self._network

    def _prompt(self, instruction: str) -> PreparedPrompt:
        if instruction not in self._prompts:
            tokens = self._tokens(instruction)
            if self._record is not None:  # attention is causal: what stands behind the placeholders changes nothing
                tokens = torch.nn.functional.pad(tokens, (0, -len(tokens) % LENGTH_STEP), value=self._pad)
            self._prompts[instruction] = self._network.prompt(tokens)
        self._prompts.move_to_end(instruction)
        _trim(self._prompts, PROMPTS)
        return self._prompts[instruction]


@torch.no_grad()
def _traced(network: FusedPolicy, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile is advised, which takes a compiler and minutes
        example = tuple(tensor.clone() for tensor in inputs)
        # torch calls its tracer deprecated. What torch.export gives has the same bits, but Python runs it, in 1.6 times
        # the time, and it takes 7 times as long to make; what would run it without Python needs a compiler.
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen: Callable[..., Tensor] = torch.jit.freeze(traced)
    return frozen


class _Recorded:
    """The network on buffers that stay where they are: one copy in, one replay, one copy out.

    Pixels and state share one buffer of bytes, pinned where the device can fetch from it by itself.
    """

    def __init__(
        self,
        network: FusedPolicy,
        prompt: PreparedPrompt,
        pixels: NDArray[np.uint8],
        state_S: NDArray[np.float32],
        record: Record,
    ) -> None:
        device, count = network.device, pixels.size
        cuda = device.type == "cuda"
        bytes_in = count + -count % 16 + state_S.nbytes
        self._host = torch.zeros(bytes_in, dtype=torch.uint8, pin_memory=cuda)
        self._input = torch.zeros(bytes_in, dtype=torch.uint8, device=device)
        self._embeddings, self._columns = prompt.embeddings_LD.clone(), prompt.columns_n.clone()
        self._prompt = prompt
        places = slice(0, count), slice(count + -count % 16, None)
        self._pixels_in = self._host[places[0]].numpy().reshape(pixels.shape)
        self._state_in = self._host[places[1]].view(torch.float32).numpy()
        images, state = self._input[places[0]].view(pixels.shape), self._input[places[1]].view(torch.float32)

        def compute() -> None:
            self._output = network(images, state, self._embeddings, self._columns, prompt.tables)

        self._pixels_in[:], self._state_in[:] = pixels, state_S
        self._input.copy_(self._host)
        compute()
        expected = self._output.clone()
        self._replay = record(compute)
        self._replay()
        if not torch.allclose(self._output, expected, rtol=0.0, atol=REPLAY_TOLERANCE):
            difference = float((self._output - expected).abs().max())
            _log.warning(
                "a recorded inference differs from a computed one by %.3g of the normalised actions; from now on the "
                "policy computes each, which is slower. Please report it with the versions of torch and of the driver",
                difference,
            )
            self._replay = compute
        self._result = torch.empty(self._output.shape, dtype=torch.float32, pin_memory=cuda)

    def __call__(
        self, prompt: PreparedPrompt, pixels: NDArray[np.uint8], state_S: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if prompt is not self._prompt:
            self._embeddings.copy_(prompt.embeddings_LD)
            self._columns.copy_(prompt.columns_n)
            self._prompt = prompt
        self._pixels_in[:], self._state_in[:] = pixels, state_S
        self._input.copy_(self._host, non_blocking=True)
        self._replay()
        self._result.copy_(self._output, non_blocking=True)
        if self._input.is_cuda:
            torch.cuda.current_stream(self._input.device).synchronize()
        found: NDArray[np.float32] = self._result.numpy().copy()
        return found


def record_cuda_graph(compute: Callable[[], None]) -> Replay:
    """Run it a few times, which lets libraries choose their kernels, then once more to record it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


def _trim(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
