"""Which Python runs the processes of a stack that ``ros2 launch`` starts.

``ros2`` has an interpreter of its own, which need not be the one that the dependencies were installed for: a ROS
distribution in /usr beside a virtual environment is the usual case.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lavla_ros.errors import UserError

NEEDED = ("lavla_ros", "rclpy", "cv2", "mcap", "numpy", "rosbags", "ruckig", "tyro", "yaml")
"""What every stack imports; a policy and a simulator need more, and say so themselves."""
_PROBE = "import sys; from importlib.util import find_spec; print(*(m for m in sys.argv[1:] if find_spec(m) is None))"


class InterpreterError(UserError, RuntimeError):
    """No Python at hand has what a stack needs; the message says which lacks what."""


def stack_python(environment: Mapping[str, str] | None = None) -> str:
    """The activated virtual environment's Python, else this one, else the ``python3`` of PATH: the first that has all.

    Raises InterpreterError.
    """
    environment = os.environ if environment is None else environment
    virtual = environment.get("VIRTUAL_ENV")
    candidates = [str(Path(virtual) / "bin" / "python3")] if virtual else []
    candidates += [sys.executable, shutil.which("python3", path=environment.get("PATH")) or sys.executable]
    lacking = {}
    for python in dict.fromkeys(candidates):
        missing = _missing(python, environment)
        if not missing:
            return python
        lacking[python] = missing
    said = "; ".join(f"{python} lacks {', '.join(missing)}" for python, missing in lacking.items())
    raise InterpreterError(f"{said}: activate the virtual environment that lavla_ros was installed in (README)")


def _missing(python: str, environment: Mapping[str, str]) -> Sequence[str]:
    try:
        probe = [python, "-c", _PROBE, *NEEDED]
        done = subprocess.run(
            probe, env=dict(environment), capture_output=True, text=True, timeout=30.0, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"everything ({error})"]
    return done.stdout.split()
