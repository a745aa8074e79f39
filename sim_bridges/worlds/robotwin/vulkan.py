"""SAPIEN, imported only where it is used, and what it draws with: a Vulkan driver that is new enough.

``python -m sim_bridges.worlds.robotwin.vulkan`` says whether this machine has one. Physics needs none.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from lavla_ros.errors import UserError

INSTALL = (
    "install Mesa's Vulkan drivers of version 25 or newer (`make` does it on Debian 12: mesa-vulkan-drivers from "
    "bookworm-backports, and libvulkan1), or the driver of your GPU with its Vulkan part"
)


class SapienError(UserError, RuntimeError):
    """SAPIEN cannot do that on this machine; the message says what to install."""


class SapienMissing(SapienError):
    """SAPIEN is not installed, or cannot be loaded."""


class NoVulkanError(SapienError):
    """This machine has no Vulkan driver that SAPIEN can draw with."""


def import_sapien() -> Any:
    """The module ``sapien``. Raises SapienMissing."""
    if "sapien" in sys.modules:  # called in every episode
        return sys.modules["sapien"]
    try:
        with warnings.catch_warnings():
            # Without a system libvulkan it warns and takes its own; physics needs neither.
            warnings.simplefilter("ignore", UserWarning)
            return importlib.import_module("sapien")
    except ImportError as error:
        raise SapienMissing(
            f"SAPIEN cannot be loaded ({error}): run `make`, or `pip install -c constraints.txt --no-deps sapien` "
            "beside the extra `robotwin` (docs/robotwin.md)"
        ) from None


def render_system() -> Any:
    """SAPIEN's renderer, on the GPU if there is one, else on the CPU. Raises NoVulkanError, SapienMissing."""
    sapien = import_sapien()
    try:
        return sapien.render.RenderSystem()
    except RuntimeError as error:
        raise NoVulkanError(f"SAPIEN finds no Vulkan device to draw on ({error}): {INSTALL}") from None


def main() -> int:
    """0 where SAPIEN can draw; otherwise 1, and on stderr what to install."""
    try:
        device = render_system().device
    except SapienError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"SAPIEN draws on {device.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
