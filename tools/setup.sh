#!/bin/sh
# Set-up of one checkout: system libraries, virtual environment, Python packages. Run by `make`.
set -eu
venv=$1
python=${PYTHON:-python3.11}
packages="libegl1 libegl-mesa0 libosmesa6 libgl1 libgl1-mesa-dri libglib2.0-0"

say() { printf '\033[1m%s\033[0m\n' "$*"; }

if ! command -v "$python" >/dev/null 2>&1; then
    python=python3
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
    echo "lavla_ros needs Python 3.11 or newer; '$python' is not. Install python3.11 and python3.11-venv, or set PYTHON=." >&2
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python$version-venv"

if command -v dpkg-query >/dev/null 2>&1; then
    missing=""
    for package in $packages; do
        # Newer releases carry a t64 suffix for some libraries: either name will do.
        dpkg-query -W -f '${Status}\n' "$package" "${package}t64" 2>/dev/null | grep -q 'install ok installed' \
            || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        sudo=""
        if [ "$(id -u)" -ne 0 ]; then
            if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
                sudo="sudo"
            else
                echo "These system packages are missing; install them, then run make again:" >&2
                echo "    sudo apt-get install$missing" >&2
                exit 1
            fi
        fi
        say "Installing system packages:$missing"
        $sudo apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends $missing >/dev/null
    fi
else
    echo "Not a Debian-like system: make sure that EGL or OSMesa is installed ($packages)." >&2
fi

say "Creating $venv (Python $version)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade "pip>=24" "setuptools>=68" wheel
# torch first and pinned: any other package that wants it is then satisfied by this build.
say "Installing PyTorch"
"$venv/bin/python" -m pip install --quiet -c constraints.txt torch
say "Installing lavla_ros and its dependencies"
"$venv/bin/python" -m pip install --quiet -c constraints.txt -e '.[all]'
# Without their dependencies: 2 GB of training code that is not used here. What they import is in the extra "libero".
say "Installing LIBERO"
"$venv/bin/python" -m pip install --quiet -c constraints.txt --no-deps hf-libero robosuite bddl
# Without its dependencies: opencv-python would overwrite the headless one. There are wheels for x86-64 only.
say "Installing SAPIEN (the stand-in for RoboTwin)"
if "$venv/bin/python" -m pip install --quiet -c constraints.txt --no-deps sapien; then
    sh tools/vulkan.sh "$venv/bin/python" || true
else
    echo "SAPIEN cannot be installed here: everything works but the stand-in for RoboTwin." >&2
fi
say "Set-up complete"
