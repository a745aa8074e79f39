"""The JAKA controller emulator over the live tabletop: ``python -m sim_bridges.worlds.tabletop.live``.

Wall clock; the arm is reached through the vendor's TCP protocol only. Ready when it says "commands on …".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from lavla_ros.config import ConfigError
from sim_bridges.jaka_controller.config import ControllerConfig, EmulatorOptions
from sim_bridges.worlds.tabletop.names import TRAINED_LAYOUT, USUAL_TASK, LayoutName, TaskName

_log = logging.getLogger("tabletop")
USUAL_MODEL = ControllerConfig().model


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """What lies on the table, and the controller. A model other than the minicobo has no table, and no physics."""

    task: TaskName = USUAL_TASK
    """The task whose objects lie on the table."""
    layout: LayoutName = TRAINED_LAYOUT
    """Whether objects are placed as in the demonstrations (id) or elsewhere (ood)."""
    seed: int = 0
    """Seed of the placement of the objects."""
    state_file: Path | None = None
    """File that shows the state of the scene to a camera process."""
    feels_collisions: bool = False
    """Whether the controller stops when the arm runs into something, at the force of its collision sensitivity."""
    emulator: EmulatorOptions = field(default_factory=EmulatorOptions)


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m sim_bridges.worlds.tabletop.live") -> int:
    """Run until SIGINT or SIGTERM; the exit status: 1 if a port is in use or the physics failed."""
    description = "Run the JAKA controller emulator over the live tabletop, for any JAKA client."
    options = tyro.cli(LiveOptions, args=argv, prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,))
    # Only now: the physics take a while to import, and help must not wait for it.
    from sim_bridges.jaka_controller.emulator import ControllerEmulator, run_emulator
    from sim_bridges.jaka_controller.plant import KinematicPlant
    from sim_bridges.worlds.tabletop.plant import SceneError, TabletopPlant, create_rings, decode_reset
    from sim_bridges.worlds.tabletop.sim import TabletopSim

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    model = options.emulator.controller.model
    if model != USUAL_MODEL:
        if options.state_file is not None:
            raise ConfigError(
                f"state_file is {options.state_file}, but the table is simulated for the {USUAL_MODEL} only"
            )
        emulator = ControllerEmulator(KinematicPlant(), options.emulator)
        _log.info("a %s without physics; the table is simulated for the %s only", model, USUAL_MODEL)
        return run_emulator(emulator)
    sim = TabletopSim(options.task, layout=options.layout)
    sim.reset(options.seed)
    state, requests = create_rings(options.state_file, sim) if options.state_file is not None else (None, None)
    plant = TabletopPlant(sim, state, feels_collisions=options.feels_collisions)

    def take_requests() -> None:
        while requests is not None and (payload := requests.read()) is not None:
            try:
                seed = decode_reset(payload)
            except SceneError as error:
                _log.error("%s", error)
                continue
            plant.request_reset(seed)
            _log.info("new episode, seed %d", seed)

    _log.info("task %s, seed %d", options.task, options.seed)
    return run_emulator(ControllerEmulator(plant, options.emulator), take_requests)


if __name__ == "__main__":
    raise SystemExit(main())
