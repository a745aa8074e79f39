"""The JAKA controller emulator over the live tabletop: ``python -m sim_bridges.tabletop.live``.

Wall clock; the arm is reached through the vendor's TCP protocol only. Ready when it says "commands on …".
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from lavla_ros.jaka.emulator import ControllerEmulator
from lavla_ros.lifeline import die_with_parent
from sim_bridges.tabletop.plant import SceneError, TabletopPlant, create_rings, decode_reset
from sim_bridges.tabletop.sim import TabletopSim

_log = logging.getLogger("tabletop")
_POLL_S = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; the exit status: 1 where a port is in use or the physics failed."""
    parser = argparse.ArgumentParser(
        prog="python -m sim_bridges.tabletop.live", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=10001, help="command port; 0: any free one")
    parser.add_argument("--status-port", type=int, default=10000, help="status port; 0: any free one")
    parser.add_argument("--task", default="pick_place", choices=("pick_place", "stack_bowls"))
    parser.add_argument("--layout", default="id", choices=("id", "ood"))
    parser.add_argument("--seed", type=int, default=0, help="placement of the objects")
    parser.add_argument("--state-file", type=Path, help="ring file through which a camera process sees the scene")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    die_with_parent()
    sim = TabletopSim(options.task, layout=options.layout)
    sim.reset(options.seed)
    state, requests = create_rings(options.state_file, sim) if options.state_file is not None else (None, None)
    plant = TabletopPlant(sim, state)
    emulator = ControllerEmulator(plant, host=options.host, port=options.port, status_port=options.status_port)
    try:
        emulator.start()
    except OSError as error:
        _log.error("%s", error)
        return 1
    gc.collect()
    gc.freeze()  # collections pause every thread; what exists now is never garbage
    _log.info(
        "commands on %s:%d, status on port %d, task %s, seed %d",
        options.host, emulator.port, emulator.status_port, options.task, options.seed,
    )  # fmt: skip
    while not stop.wait(_POLL_S) and emulator.failure is None:
        while requests is not None and (payload := requests.read()) is not None:
            try:
                seed = decode_reset(payload)
            except SceneError as error:
                _log.error("%s", error)
                continue
            plant.request_reset(seed)
            _log.info("new episode, seed %d", seed)
    emulator.stop()
    return 1 if emulator.failure is not None else 0


if __name__ == "__main__":
    raise SystemExit(main())
