#!/bin/sh
# A Vulkan driver that SAPIEN can draw with, for the cameras of the RoboTwin stand-in. Run by setup.sh; does nothing where
# there is one already. Debian 12 has Mesa 22, which is too old: it gets Mesa 25 from its backports, and keeps its OpenGL.
set -eu
python=$1

if "$python" -m sim_bridges.worlds.robotwin.vulkan 2>/dev/null; then
    exit 0
fi
give_up() {
    echo "RoboTwin's stand-in will not draw pictures: $*" >&2
    "$python" -m sim_bridges.worlds.robotwin.vulkan >&2 || true
    exit 1
}
command -v apt-get >/dev/null 2>&1 || give_up "no Vulkan driver, and this is not a Debian-like system."
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || give_up "no Vulkan driver, and no right to install one."
    sudo="sudo"
fi

# shellcheck source=/dev/null
. /etc/os-release
from=""
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    if ! apt-cache policy mesa-vulkan-drivers | grep -q bookworm-backports; then
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main" \
            | $sudo tee /etc/apt/sources.list.d/lavla-bookworm-backports.list >/dev/null
    fi
    from="/bookworm-backports"
fi
echo "Installing a Vulkan driver: mesa-vulkan-drivers$from libvulkan1"
$sudo apt-get update -qq || give_up "apt-get update failed."
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y --no-install-recommends "mesa-vulkan-drivers$from" libvulkan1 \
    >/dev/null || give_up "apt-get could not install one."
"$python" -m sim_bridges.worlds.robotwin.vulkan || give_up "the driver that was installed is too old."
