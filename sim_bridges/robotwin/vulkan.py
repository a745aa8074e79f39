"""What SAPIEN draws with: a Vulkan driver that is new enough. Physics needs none."""

from __future__ import annotations

from typing import Any

from sim_bridges.robotwin.standin.engine import StandinError, import_sapien

INSTALL = (
    "install Mesa 25 or newer (`make` does it on Debian 12: mesa-vulkan-drivers from bookworm-backports, and "
    "libvulkan1), or the driver of your GPU with its Vulkan part"
)


class NoVulkanError(StandinError):
    """This machine has no Vulkan driver that SAPIEN can draw with."""


def render_system() -> Any:
    """SAPIEN's renderer, on the GPU where there is one, else on the CPU. Raises NoVulkanError, SapienMissing."""
    sapien = import_sapien()
    try:
        return sapien.render.RenderSystem()
    except RuntimeError as error:
        raise NoVulkanError(f"SAPIEN finds no Vulkan device to draw on ({error}): {INSTALL}") from None
