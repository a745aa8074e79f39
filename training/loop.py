"""The training loop, read from top to bottom: prepare, steps, validation, saving, resume. What is learned is a Task.

Everything random in step k is a function of (seed, k): the samples, their augmentation and the
network's own draws. So there is no sampler state to save, and a run that was killed and resumed has
the losses of one that was not. Samples and augmentation do not depend on the number of processes
either: n of them compute what one does, but for the rounding of sums.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lavla_ros.config import ConfigError, differences, from_plain, to_plain
from lavla_ros.contract import Contract
from lavla_ros.errors import DIVERGED, UserError
from lavla_ros.outputs import sole_writer
from lavla_ros.policy.device import resolve_device
from lavla_ros.policy.folder import CheckpointError, trained_parameters
from lavla_ros.yaml_text import dump_yaml
from training.config import RunConfig
from training.frames import Prefetcher
from training.logs import RunLog
from training.reporting import Reporter
from training.resume_state import (
    Ema,
    Progress,
    StateWriter,
    gather,
    is_divided,
    load_progress,
    load_state,
    recover,
    replaced,
    state_of,
)
from training.samples import SampleStream
from training.system_resources import require_disk, require_memory

_MAY_DIFFER = frozenset(
    {
        "output", "log_every", "validate_every", "save_every", "max_minutes", "resume", "threads", "device",
        "trackers", "wandb_project", "data",
    }
)  # fmt: skip
"""Settings that change no loss but by rounding: a run may be resumed with other ones."""


class TrainingError(UserError, RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


class DivergedError(TrainingError):
    """The loss or its gradients are no longer finite."""

    exit_status = DIVERGED


class Task(ABC):
    """One objective: what is learned, from which samples. Everything else about a run is the loop's."""

    results: ClassVar[tuple[str, ...]]
    """Folders of the run's output that hold what was learned."""
    learning_rate_key: ClassVar[str] = "learning_rate"
    """The setting to lower when a loss is not finite."""
    may_differ: frozenset[str] = frozenset()
    """Settings of this task's own that a run may be resumed with other values of."""
    gradient_clip: float = math.inf
    """Largest norm of the gradients of a step."""
    ema_decay: float | None = None
    """Decay of the averaged weights that are validated and saved; None: no averaging."""
    stored_as: torch.dtype | None = None
    """Type that weights are rounded to where they are saved; None: not at all."""
    evaluated_on: str = "validation"
    """What :meth:`evaluate` looks at, for the log."""

    config: RunConfig
    contract: Contract
    train_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    """How often each of ``train_rows`` is drawn, relative to the others; None: all alike."""

    @abstractmethod
    def build(self, run: Trainer) -> nn.Module:
        """The network, on the CPU; its ``loss(batch)`` gives a tuple with ``total`` and, for the log, ``parts``."""

    @abstractmethod
    def optimizer(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer: ...

    @abstractmethod
    def start_step(self, step: int) -> float:
        """Called before each optimizer step; returns its learning rate."""

    def read(self, rows: NDArray[np.int64], positions: range | None = None) -> Any:
        """What a batch needs of the host; the loop calls it one batch ahead, in a thread of its own.

        ``positions``: of these samples in the stream, if they are trained on.
        """
        del rows, positions

    @abstractmethod
    def batch(self, rows: NDArray[np.int64], read: Any, device: torch.device) -> Any:
        """These samples on ``device``."""

    def augment(self, batch: Any, positions: range) -> Any:
        """The same with what is changed by chance on ``device``."""
        del positions
        return batch

    def draws(self, step: int, part: int, process: int) -> tuple[int, ...]:
        """What the network's own draws in a forward pass depend on, besides the seed."""
        return step, part, process

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Called with the gradients of a whole batch in place, before they are applied."""
        del optimizer

    def note(self, loss: Any) -> None:
        """Called with what ``loss(batch)`` gave in each forward pass of training."""
        del loss

    def window(self, run: Trainer) -> Mapping[str, Mapping[str, float]]:
        """Figures since the last entry of the log, by section."""
        del run
        return {}

    @abstractmethod
    def evaluate(self, run: Trainer) -> Mapping[str, float]:
        """Figures of the averaged weights, in evaluation mode; empty if there is nothing to evaluate on."""

    def provenance(self) -> Mapping[str, Any]:
        """What the losses depend on besides settings, contract and :meth:`arrays`; JSON-ready.

        A run is not resumed with another.
        """
        return {}

    def compare_gradients(self, run: Trainer) -> Mapping[str, float]:
        """Figures that need a backward pass, of the weights that are trained, at every validation; not under FSDP."""
        del run
        return {}

    def save(self, run: Trainer) -> None:
        """Called whenever the run's state is about to be saved."""
        del run

    def rest(self) -> Mapping[str, Tensor]:
        """What steps change besides parameters, moments and averages; a resume writes into these tensors."""
        return {}

    @abstractmethod
    def finish(self, run: Trainer, *, interrupted: bool) -> Path:
        """Write what the run was for; returns its folder. ``interrupted``: by a SIGTERM, so the run is to go on."""

    @abstractmethod
    def arrays(self) -> Iterable[NDArray[Any]]:
        """The data: a run is not resumed with other ones."""

    @abstractmethod
    def describe(self, row: int) -> str:
        """Where a sample comes from, for people."""


class _Objective(nn.Module):
    """The loss as a module's forward pass, so that accelerate can wrap it for several processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: Any = module

    def forward(self, batch: Any) -> Any:
        return self.module.loss(batch)


class StepFigures:
    """Figures of one step on their way from the device: the host goes on and reads them a step later."""

    def __init__(self, step: int, names: Iterable[str], values: Tensor, rate: float) -> None:
        self.step, self._names, self._rate = step, tuple(names), rate
        self._values = values.to("cpu", non_blocking=True)
        self._there = torch.Event(values.device) if values.is_cuda else None
        if self._there is not None:
            self._there.record()

    def read(self) -> dict[str, float]:
        """Waits for this step, and for nothing that was asked of the device after it."""
        if self._there is not None:
            self._there.synchronize()
        return {**dict(zip(self._names, self._values.tolist(), strict=True)), "learning_rate": self._rate}


class Trainer:
    """One run of one task; in every process of a launch, one each.

    The host does not wait for the device in a step: figures are read one step later. A step whose loss or gradients are
    not finite changes no weight, and neither does any step after it: the optimizer is told so on the device.
    """

    def __init__(self, task: Task, reporter: Reporter) -> None:
        """Raises TrainingError, RoomError or what the task raises before anything is written."""
        config = task.config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.task, self.config, self.reporter = task, config, reporter
        self.accelerator = build_accelerator(config)
        self.micro_batch = micro_batch(self.accelerator, config)
        self.stream = SampleStream(task.train_rows, config.seed, task.weights)
        self.prefetcher = Prefetcher(task.read)

        set_seed(config.seed)  # the network is the same in all processes
        self.module = task.build(self)
        self._require_room()
        optimizer = task.optimizer(trained_parameters(self.module))
        self.objective, self.optimizer = self.accelerator.prepare(_Objective(self.module), optimizer)
        self.parameters = trained_parameters(self.module)  # after prepare: FSDP puts others in their place
        self.ema = Ema(self.parameters, task.ema_decay) if task.ema_decay is not None else None

        self.step = 0
        self.best: float | None = None
        self.seconds = 0.0
        self.losses: list[float] = []
        """Training loss of every step since the start or the resume."""
        self._clipped: list[bool] = []
        """Was the gradient clipped? Of every step since the last entry of the log."""
        self._unread: deque[StepFigures] = deque()
        self._ahead = bool(self.optimizer.defaults.get("fused")) and not is_divided(self.objective)
        """True if the optimizer can be held back on the device; else steps are looked at before they are applied."""
        self._broken = torch.zeros((), device=self.accelerator.device)
        """1 since a step whose loss or gradients were not finite."""
        self._rest: dict[str, Tensor] = {}
        """The task's rest as it was before the last step that was begun while nothing was broken."""
        self._writer = StateWriter()
        self._terminated = self._asked = False

    def run(self) -> Path:
        """Train to the end, to ``max_minutes`` or to a SIGTERM; returns the folder of what was learned."""
        config, output, task = self.config, self.config.output, self.task
        writing = sole_writer(output) if self.is_main else nullcontext()
        with writing, self._stop_on_sigterm(), self._writer:
            self._resume()
            self.log = RunLog(config, step=self.step, enabled=self.is_main)
            if self.is_main:
                (output / "config.yaml").write_text(dump_yaml(to_plain(config)), encoding="utf-8")
            deadline = math.inf if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
            started, before = time.monotonic(), self.seconds
            stepping_s = 0.0
            """Spent in steps since the last entry of the log: not in validation and saving."""
            stopped = self.step >= config.steps
            while not stopped:
                begun = time.monotonic()
                stop = self._terminated or begun > deadline
                self._unread.append(self._train_step(stop=stop))
                self.step += 1
                self.seconds = before + time.monotonic() - started
                figures = self._look(leave=int(self._ahead))
                # any process may ask to stop; all do after the same step
                stopped = (self._asked if self.accelerator.num_processes > 1 else stop) or self.step == config.steps
                logged, validated, saved = (
                    stopped or self.step % every == 0
                    for every in (config.log_every, config.validate_every, config.save_every)
                )
                if logged or validated or saved:
                    figures = self._look(leave=0) or figures
                stepping_s += time.monotonic() - begun
                if logged:
                    figures["samples_per_s"] = len(self._clipped) * config.batch_size / max(stepping_s, 1e-9)
                    stepping_s = 0.0
                    if math.isfinite(task.gradient_clip):
                        figures["clipped"] = sum(self._clipped) / len(self._clipped)
                    self._clipped.clear()
                    self._report({"train": figures, **task.window(self)})
                if validated:
                    self._validate()
                if saved:
                    self._save()
            interrupted = self.step < config.steps and any(gather_object([self._terminated]))
            result = task.finish(self, interrupted=interrupted)
            self.log.close()
        return result

    def _train_step(self, *, stop: bool) -> StepFigures:
        """One optimizer step over the whole (global, accumulated) batch; figures are means over it."""
        config, accelerator, task = self.config, self.accelerator, self.task
        rate = task.start_step(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        for name, tensor in task.rest().items():
            kept = self._rest.get(name)
            self._rest[name] = tensor.clone() if kept is None else torch.where(self._broken > 0, kept, tensor)
        sums: dict[str, Tensor] = {"stop": torch.full((), float(stop), device=accelerator.device)}
        for part in range(config.accumulation):
            with accelerator.accumulate(self.objective):
                loss = self.objective(self._batch(part))
                accelerator.backward(loss.total)
                task.note(loss)
                for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulation
                if accelerator.sync_gradients:
                    figures = self._guard(sums, rate)  # before anything is changed by it
                    task.before_update(self.optimizer)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step)
        return figures

    def _guard(self, sums: Mapping[str, Tensor], rate: float) -> StepFigures:
        """Clip the gradients; hold the update back if they or the loss are not finite."""
        norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), self.task.gradient_clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        means = self.accelerator.reduce(torch.stack([v.float() for v in sums.values()]), reduction="mean")
        values = torch.cat([means, norm.float().reshape(1)])
        figures = StepFigures(self.step, (*sums, "gradient_norm"), values, rate)
        if not self._ahead:
            self._require_finite(self.step, figures.read())
            return figures
        finite = torch.isfinite(means[list(sums).index("loss")]) & torch.isfinite(values[-1])
        self._broken = torch.maximum(self._broken, 1 - finite.float())
        self.optimizer.optimizer.found_inf = self._broken
        return figures

    def _look(self, *, leave: int) -> dict[str, float]:
        """Read the figures of all steps but the ``leave`` newest; returns the newest of them, or nothing."""
        figures: dict[str, float] = {}
        while len(self._unread) > leave:
            step = self._unread.popleft()
            figures = step.read()
            self._asked |= figures.pop("stop") > 0
            self._require_finite(step.step, figures)
            self.losses.append(figures["loss"])
            self._clipped.append(figures["gradient_norm"] > self.task.gradient_clip)
        return figures

    def _rows(self, step: int, part: int) -> tuple[int, NDArray[np.int64]]:
        """Position in the stream and samples of this process's micro-batch."""
        slot = part * self.accelerator.num_processes + self.accelerator.process_index
        first = step * self.config.batch_size + slot * self.micro_batch
        return first, self.stream(first, self.micro_batch)

    def _batch(self, part: int) -> Any:
        """This process's micro-batch ``part`` of the present step; the one after it is read meanwhile."""
        first, rows = self._rows(self.step, part)
        positions = range(first, first + len(rows))
        read = self.prefetcher.take(rows, positions)
        last = part == self.config.accumulation - 1
        following, others = self._rows(self.step + last, 0 if last else part + 1)
        self.prefetcher.request(others, range(following, following + len(others)))
        batch = self.task.batch(rows, read, self.accelerator.device)
        words = (self.config.seed, 13, *self.task.draws(self.step, part, self.accelerator.process_index))
        torch.manual_seed(int(np.random.default_rng(words).integers(2**62)))
        return self.task.augment(batch, positions)

    @torch.no_grad()
    def _require_finite(self, step: int, figures: Mapping[str, float]) -> None:
        """Raise TrainingError, in all processes alike, unless loss and gradients of this step were finite.

        The weights are as they were before that step, and so is what is saved.
        """
        if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"]):
            return
        culprits: list[int] = []
        count = 0
        for part in range(self.config.accumulation):
            first, rows = self._rows(step, part)
            for position, row in enumerate(rows, first):
                one = np.array([row])
                at = range(position, position + 1)
                batch = self.task.batch(one, self.task.read(one, at), self.accelerator.device)
                count += 1
                for name, tensor in self.task.rest().items():
                    # a codebook has met all samples of the batch, and each spoils it for all
                    tensor.copy_(self._rest[name])
                if not math.isfinite(float(self.objective(batch).total)):
                    culprits.append(int(row))
        culprits = sorted(set(gather_object(culprits)))
        advice = f"lower {self.task.learning_rate_key}"
        advice += "" if self.config.precision == "float32" else ", or use precision: float32"
        if len(culprits) == count * self.accelerator.num_processes:
            cause = f"It is so for every sample of the batch: the weights diverged; {advice}"
        elif culprits:
            shown = "; ".join(self.task.describe(i) for i in culprits[:8])
            cause = f"It is so for samples {culprits[:8]}: {shown}. Look at these data"
        else:
            shown = ", ".join(str(i) for i in sorted(self._rows(step, 0)[1].tolist())[:8])
            cause = f"Each sample's own loss is finite (samples {shown}, …): {advice}"
        raise DivergedError(
            f"step {step}: the loss is {figures['loss']}, the gradient norm {figures['gradient_norm']}. {cause}. "
            f"What was saved in {self.config.output} before this step is good"
        )

    @torch.no_grad()
    def _validate(self) -> None:
        figures: dict[str, float] = {}
        if not is_divided(self.objective):  # a part of the parameters has no gradient of the whole
            figures |= self.task.compare_gradients(self)  # in training mode: activations are recomputed if they are
        self.objective.eval()
        changed = self.ema is not None or self.task.stored_as is not None
        with replaced(self.parameters, self.weights, self.task.stored_as) if changed else nullcontext():
            figures |= self.task.evaluate(self)
        if figures:
            self._report({self.task.evaluated_on: figures}, prefix=f"{self.task.evaluated_on}_")

    def _save(self) -> None:
        self.task.save(self)
        self._writer.wait()  # so that no more than one state is held
        state = state_of(self.parameters, self.optimizer, self.ema, self.task.rest())
        tensors = gather(state, keep=self.is_main)
        if self.is_main:
            progress = Progress(step=self.step, best=self.best, identity=self.identity, seconds=self.seconds)
            live = self.accelerator.device.type == "cpu"  # the tensors are those that training goes on with
            self._writer.write(self.config.output / "resume", progress, tensors, live=live)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Go on where the last save was, or begin. All processes read the same files."""
        output = self.config.output
        if self.is_main:
            for name in ("resume", *self.task.results):
                recover(output, name)
        self.accelerator.wait_for_everyone()
        saved = output / "resume"
        if saved.exists():
            if not self.config.resume:
                raise TrainingError(f"{output} holds a run already; choose another output or set resume: true")
            progress = load_progress(saved)
            began = self._with_new_settings(progress.identity)
            if began != self.identity:
                found = "; ".join(differences(began, self.identity)[:5])
                raise CheckpointError(
                    f"{saved} belongs to another configuration or other data ({found}); choose another output, or "
                    "delete it"
                )
            load_state(saved, self.parameters, self.optimizer, self.ema, self.task.rest())
            self.step, self.best, self.seconds = progress.step, progress.best, progress.seconds
            self.reporter.message(f"resumed at step {self.step} of {self.config.steps}")
        steps = gather_object([self.step])
        if len(set(steps)) > 1:
            raise TrainingError(f"the processes found states of steps {steps}: {output} must be on a shared disk")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Changes with anything that would change the losses to come."""
        data = hashlib.sha256()
        for array in self.task.arrays():
            data.update(np.ascontiguousarray(array).data)
        may_differ = _MAY_DIFFER | self.task.may_differ
        settings = {key: value for key, value in to_plain(self.config).items() if key not in may_differ}
        found = {"settings": settings, "contract": self.task.contract.full_hash, "data": data.hexdigest()[:16]}
        return {**found, **self.task.provenance()}

    def _with_new_settings(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same with the defaults of settings that there were not yet when it was written."""
        try:
            settings = to_plain(from_plain(type(self.config), identity["settings"], source="resume"))
        except ConfigError:  # one that there is no more
            return identity
        kept = self.identity["settings"].keys() | identity["settings"].keys()
        return {**identity, "settings": {key: value for key, value in settings.items() if key in kept}}

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What is validated and saved: the averages, if there are some."""
        return self.parameters if self.ema is None else self.ema.tensors

    @property
    def is_main(self) -> bool:
        """True in the one process that writes."""
        return bool(self.accelerator.is_main_process)

    def _report(self, sections: Mapping[str, Mapping[str, float]], prefix: str = "") -> None:
        """Log the present step's figures; of figures with the same name, people see that of the first section."""
        shown: dict[str, float] = {}
        for section, figures in sections.items():
            self.log.add(self.step, section, figures)
            shown = {prefix + name: value for name, value in figures.items()} | shown
        self.reporter.step(self.step, shown)

    def _require_room(self) -> None:
        """Raise RoomError if optimizer states or checkpoints are sure not to fit."""
        trained = sum(4 * p.numel() for p in trained_parameters(self.module).values())
        state = (3 + (self.task.ema_decay is not None)) * trained
        if self.accelerator.device.type == "cpu":
            require_memory(state, "gradients and optimizer states", "Train a smaller network, or fewer parameters")
        if not (self.config.output / "resume").exists():
            # the results, and the state twice: while it is replaced, its successor is there too
            needed, what = len(self.task.results) * trained + 2 * state, ", ".join((*self.task.results, "resume"))
            require_disk(needed, self.config.output, f"saving {what}", "Free some, or set output to a larger disk")

    @contextmanager
    def _stop_on_sigterm(self) -> Iterator[None]:
        """A scheduler's SIGTERM ends the run after the present step, with everything saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_: object) -> None:
            self._terminated = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def build_accelerator(config: RunConfig) -> Accelerator:
    """On the GPUs if there are any, else on the CPU; also with several processes (gloo).

    Raises DeviceError for a GPU that is not there, TrainingError when a launcher started several processes that
    accelerate does not join.
    """
    none = torch.accelerator.current_accelerator() is None
    accelerator = Accelerator(
        cpu=none if config.device == "auto" else resolve_device(config.device).type == "cpu",
        gradient_accumulation_steps=config.accumulation,
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were launched, but accelerate sees {accelerator.num_processes}: launch with "
            "`accelerate launch --config_file config/accelerate/…`"
        )
    return accelerator


def micro_batch(accelerator: Accelerator, config: RunConfig) -> int:
    """Samples of a process in one forward pass. Raises TrainingError if the batch cannot be shared evenly."""
    share = accelerator.num_processes * config.accumulation
    if config.batch_size % share:
        raise TrainingError(
            f"batch_size is {config.batch_size}; expected a multiple of processes × accumulation = {share}"
        )
    return int(config.batch_size // share)
