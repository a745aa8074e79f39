"""The environment that every ROS process of the package runs in, however it is started."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from lavla_ros.bringup.domain import domain_id
from lavla_ros.errors import UserError
from lavla_ros.lifeline import die_with_parent
from lavla_ros.places import writable_places
from lavla_ros.resources import config_path, share_path

DISCOVERY = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_WHEELS_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_RANGES = ("LOCALHOST", "SUBNET", "OFF", "SYSTEM_DEFAULT")


class SettingError(UserError, ValueError):
    """A variable of the caller's shell keeps ROS from working here; the message names the remedy."""


def ros_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """``base`` (default: this process's) plus what ROS needs; values that are set already stay.

    This machine alone, unless the base says ``ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET``; the Fast DDS profile for images;
    unbuffered logs; one thread per numeric library; folders that can be written; and, with ROS 2 from wheels, the
    ament index of the Python environment. What a sourced ROS distribution of another Python put on PYTHONPATH is left
    out.

    Raises SettingError, or DomainError, for a variable that ROS would answer with a traceback.
    """
    environment = dict(os.environ if base is None else base)
    reach = environment.setdefault(DISCOVERY, "LOCALHOST")
    if reach not in _RANGES:
        raise SettingError(f"{DISCOVERY} is {reach!r}; expected one of {list(_RANGES)}")
    profile = "fastdds_network.xml" if reaches_others(environment) else "fastdds_profile.xml"
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(config_path(profile)),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "RCUTILS_CONSOLE_OUTPUT_FORMAT": "{severity}: {message}",
        **writable_places(environment),
    }
    if (Path(sys.prefix) / "share" / "ament_index").is_dir():
        defaults["AMENT_PREFIX_PATH"] = sys.prefix
    for key, value in defaults.items():
        environment.setdefault(key, value)
    domain_id(environment)
    _check_middleware(environment)
    if _WHEELS_GUARD in environment and "LD_LIBRARY_PATH" not in environment:
        del environment[_WHEELS_GUARD]  # the child has to find the libraries itself again
    root = str(share_path())
    paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p and not _of_another_python(Path(p))]
    if (Path(root) / "lavla_ros").is_dir() and root not in paths:  # a checkout: children import the same code
        paths.insert(0, root)
    if paths or "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def enter_ros() -> None:
    """What a ROS process does before ``rclpy.init``: the same environment in every case; end with its starter."""
    os.environ.update(ros_environment())
    die_with_parent()


def reaches_others(environment: Mapping[str, str]) -> bool:
    """Whether other machines can hear, and command, what runs in this environment."""
    return environment.get(DISCOVERY, "LOCALHOST") in ("SUBNET", "SYSTEM_DEFAULT")


def _check_middleware(environment: Mapping[str, str]) -> None:
    name = environment.get("RMW_IMPLEMENTATION", "")
    if not name:
        return
    prefixes = [sys.prefix, *environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    folders = [Path(p) / "lib" for p in prefixes if p]
    folders += [Path(p) for p in environment.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]
    if not any((folder / f"lib{name}.so").exists() for folder in folders):
        raise SettingError(f"RMW_IMPLEMENTATION is {name!r}, which is not installed here; unset RMW_IMPLEMENTATION")


def _of_another_python(path: Path) -> bool:
    """Whether a folder of modules is for another Python than this one: by its name, or by the rclpy in it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if any(found != version for found in re.findall(r"/python(\d+\.\d+)(?=/|$)", path.as_posix())):
        return True
    built = [file.name for file in (path / "rclpy").glob("_rclpy_pybind11*.so")]
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    return bool(built) and not any(name.endswith(suffix) for name in built)
