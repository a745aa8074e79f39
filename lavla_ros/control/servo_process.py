"""The servo loop, a process of its own: ``python -m lavla_ros.control.servo_process --config FILE``.

Torch is not loaded here, nor rclpy unless the arm's driver needs it, and nothing but this loop holds the interpreter.
Every 8 ms, on an absolute deadline: take chunks and requests from the rings, tick the executor, send the command, write
a snapshot. While servo mode is on a command goes out in every cycle, whatever happens:

- no heartbeat from the ROS side → HOLDING, then FAULT, then (at rest) leave servo mode and end;
- SIGTERM, SIGINT, SIGHUP, or the ROS side has ended → ramp to rest, leave servo mode, close, exit code 0;
- any error in the loop → ramp to rest with what still works, leave servo mode, close, cause on stderr and in the
  last snapshot, exit code 1;
- no connection or no servo mode at the start → the same, exit code 3; bad configuration: 2.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import DriverError
from lavla_ros.control.executor import ChunkExecutor, ExecutorError
from lavla_ros.control.realtime import make_punctual, stop_collecting
from lavla_ros.control.ring import Ring, RingError
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.servo_loop import ServoLoop, write_exit
from lavla_ros.control.wire import RING_FILES
from lavla_ros.lifeline import die_with_parent

_log = logging.getLogger(__name__)
EXIT_OK, EXIT_ERROR, EXIT_CONFIG, EXIT_DRIVER = 0, 1, 2, 3


def open_rings(folder: Path) -> dict[str, Ring]:
    """The rings made by the ROS side; made here if the folder has none (stand-alone runs)."""
    folder.mkdir(parents=True, exist_ok=True)
    rings = {}
    for name, (slots, capacity) in RING_FILES.items():
        path = folder / name
        rings[name] = Ring.open(path) if path.exists() else Ring.create(path, slots=slots, capacity=capacity)
    return rings


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 stopped as asked, 1 error in the loop, 2 configuration, 3 the arm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON file, see config/control/")
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="servo: %(levelname)s: %(message)s")
    try:
        config = ServoConfig.load(arguments.config)
        contract = config.load_contract()
        executor = ChunkExecutor(contract, config.executor_config(contract), config.clearance(contract))
        driver = config.driver(executor.config)
        rings = open_rings(Path(config.ring_dir) if config.ring_dir else arguments.config.parent / "rings")
    except (ConfigError, RingError) as error:
        _log.error("%s", error)
        return EXIT_CONFIG
    if config.realtime_priority:
        make_punctual(config.realtime_priority)
    try:
        driver.connect()
    except DriverError as error:
        _log.error("%s", error)
        write_exit(rings, str(error), len(executor.config.joint_names))
        driver.close()
        return EXIT_DRIVER
    loop = ServoLoop(config, executor, driver, rings)

    def stop(number: int, _frame: FrameType | None) -> None:
        loop.request_stop(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    die_with_parent()
    stop_collecting()
    code, reason = EXIT_OK, ""
    try:
        reason = loop.run()
    except (DriverError, ExecutorError) as error:
        code, reason = EXIT_DRIVER, str(error)
        _log.error("%s", error)
    except Exception as error:  # noqa: BLE001  the last line of defence: the arm is ramped down below
        code, reason = EXIT_ERROR, f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        loop.end(reason)
    return code


if __name__ == "__main__":
    sys.exit(main())
