"""One worker thread that always predicts from the newest observation."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.policy.policy import Policy

OnChunk = Callable[[ActionChunk, Observation, float], None]
"""Receives the chunk, its observation and the inference time in seconds, in the worker thread."""


class InferenceWorker:
    """Replan every ``replan_steps`` contract steps; a slow policy skips observations, never queues them. Where a step
    is a command, the node that carries commands out shows an observation when a chunk is wanted: every one is answered.

    ``counters``: inferences, superseded (a newer observation came first), stale (older than
    ``max_observation_age_s`` when its turn came: dropped).
    """

    def __init__(
        self,
        policy: Policy,
        on_chunk: OnChunk,
        on_failure: Callable[[BaseException], None],
        *,
        replan_steps: int,
        now_ns: Callable[[], int],
    ) -> None:
        """``now_ns``: the clock of the observations' stamps. ``on_failure`` gets what the policy raised."""
        self.counters: Counter[str] = Counter()
        self._policy = policy
        self._on_chunk = on_chunk
        self._on_failure = on_failure
        contract = policy.contract
        # Half a step of slack: capture stamps jitter around the contract's rate.
        periodic = contract.step == "period"
        self._interval_ns = replan_steps * contract.dt_ns - contract.dt_ns // 2 if periodic else 0
        self._max_age_s = contract.alignment.max_observation_age_s
        self._wake = threading.Condition()
        self._slot: Observation | None = None
        self._predicted_ns: int | None = None
        self._now_ns = now_ns
        self._reset = False
        self._paused = False
        self._running = True
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def offer(self, observation: Observation) -> None:
        """Hand over the newest observation; returns at once."""
        with self._wake:
            if not self._is_due(observation):
                return
            if self._slot is not None and not self._paused:
                self.counters["superseded"] += 1
            self._slot = observation
            self._wake.notify()

    def pause(self) -> None:
        """No inference until :meth:`resume`; a chunk in progress is dropped."""
        with self._wake:
            self._paused = True

    def resume(self) -> None:
        """A new episode: go on with the newest observation, and forget the policy's memory before it."""
        with self._wake:
            if self._paused:
                self._paused, self._reset, self._predicted_ns = False, True, None
                self._wake.notify()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after the inference in progress."""
        with self._wake:
            self._running = False
            self._wake.notify()
        self._thread.join(timeout_s)

    def _is_due(self, observation: Observation) -> bool:
        # abs: a clock that jumped back must not silence the policy
        return self._predicted_ns is None or abs(observation.stamp_ns - self._predicted_ns) >= self._interval_ns

    def _run(self) -> None:
        while True:
            with self._wake:
                while (self._slot is None or self._paused) and self._running:
                    self._wake.wait()
                if not self._running:
                    return
                observation, self._slot = self._slot, None
                assert observation is not None
                if self._now_ns() - observation.stamp_ns > self._max_age_s * 1e9:
                    self.counters["stale"] += 1
                    continue
                self._predicted_ns = observation.stamp_ns
                reset, self._reset = self._reset, False
            # Whatever a model raises must reach the operator instead of ending a thread in silence.
            try:
                if reset:
                    self._policy.reset()
                begin_s = time.perf_counter()
                chunk = self._policy.predict(observation)
                self.counters["inferences"] += 1
                if not self._paused:
                    self._on_chunk(chunk, observation, time.perf_counter() - begin_s)
            except Exception as error:  # noqa: BLE001
                self._on_failure(error)
                return


def warm_up(policy: Policy, contract: Contract) -> None:
    """One inference on a grey picture: the first is slow, and a broken checkpoint shows now."""
    images = {spec.name: np.full((spec.height, spec.width, 3), 128, np.uint8) for spec in contract.cameras}
    state = np.zeros(contract.state_dim, np.float32)
    policy.predict(Observation(stamp_ns=0, images=images, state=state, instruction="warm up"))
    policy.reset()
