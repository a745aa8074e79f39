"""Package definition, for pip and for colcon (ament_python) alike.

Both install the same tree: the three Python packages, ``share/lavla_ros`` (package.xml, launch,
config) and the node executables in ``lib/lavla_ros``, where ``ros2 run`` and launch_ros look.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "lavla_ros"
HERE = Path(__file__).parent


def tree(folder: str, pattern: str) -> list[tuple[str, list[str]]]:
    """data_files entries that keep the folder structure below share/<package>."""
    found: dict[str, list[str]] = {}
    for file in sorted((HERE / folder).rglob(pattern)):
        relative = file.relative_to(HERE)
        found.setdefault(f"share/{PACKAGE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(found.items())


POLICY = ["torch>=2.8", "transformers>=5.20", "peft>=0.21", "safetensors", "tokenizers", "pillow"]
DATA = ["av>=15", "pyarrow>=20"]
SIM = ["mujoco>=3.3,<3.9", "matplotlib", *DATA]
# What hf-libero, robosuite and bddl import. They themselves are installed without their dependencies (tools/setup.sh):
# those are 2 GB of training code that nothing here uses, with pins of their own.
LIBERO = [
    *SIM,
    "PyOpenGL",
    "scipy",
    "numba",
    "termcolor",
    "easydict",
    "cloudpickle",
    "gymnasium",
    "future",
    "huggingface-hub",
]
# The stand-in for RoboTwin. SAPIEN itself (3.0.3: RoboTwin's own 3.0.0b1 draws on no CPU) is installed without its
# dependencies, as LIBERO is: it names opencv-python, which would overwrite the headless one. What it imports is here.
ROBOTWIN = ["h5py>=3.11", "transforms3d", "requests"]
# vector-quantize-pytorch: since 1.32 a restart does not put two codes on one latent of a small batch.
TRAIN = [
    *POLICY,
    *DATA,
    "accelerate>=1.15",
    "tensorboard",
    "protobuf>=6",
    "h5py>=3.11",
    "matplotlib",
    "vector-quantize-pytorch>=1.32,<2",
]
# Conversion and labelling on several machines. Older ones were not tried.
RAY = ["ray>=2.50"]
# Without a ROS distribution: ROS 2 Jazzy as wheels. With one, rclpy and the messages are the distribution's.
ROS = [
    "ros-rclpy[fastrtps]==7.1.6",
    "ros-std-msgs==5.3.6",
    "ros-sensor-msgs==5.3.6",
    "ros-geometry-msgs==5.3.6",
    "ros-trajectory-msgs==5.3.6",
    "ros-diagnostic-msgs==5.3.6",
    "ros-std-srvs==5.3.6",
    "ros-rosgraph-msgs==2.0.3",
    "ros-lifecycle-msgs==2.0.3",
]
# The console in the browser.
CONSOLE = ["nicegui>=3.18,<4"]
# Recordings for Rerun's viewer, 170 MB: not in "all". Before 0.23 columns and durations were written otherwise.
VIEW = ["rerun-sdk>=0.23"]
# The server of "lavla view live", 20 MB. Before 0.30 it was not tried.
FOXGLOVE = ["foxglove-sdk>=0.30"]
# playwright drives the Chromium that the system has; without one, the console's tests are skipped.
TEST = ["playwright", "pytest", "pytest-timeout", "pytest-rerunfailures", "pytest-xdist", "hypothesis"]
DEV = [*TEST, "ruff", "mypy", "import-linter", "types-PyYAML"]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Latent-action-supervised VLA policies on ROS 2: from demonstrations to a working arm",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["lavla_ros*", "training*", "sim_bridges*", "benchmarks*"]),
    package_data={
        "lavla_ros": ["py.typed"],
        "lavla_ros.console": ["*.css", "*.js"],
        "lavla_ros.policy": ["bundled/*", "bundled/*/*"],
        "sim_bridges.worlds.tabletop": ["*.xml", "assets/*"],
        "sim_bridges.evaluation": ["*.html"],
        "sim_bridges.worlds.libero": ["asset_files.txt"],
        "sim_bridges.worlds.robotwin.standin": ["shaders/*"],
        "sim_bridges.worlds.robotwin.deploy_policy": ["*.yml"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"lib/{PACKAGE}", sorted(p.relative_to(HERE).as_posix() for p in (HERE / "scripts").iterdir())),
        *tree("launch", "*.launch.py"),
        *tree("config", "*.yaml"),
        *tree("config", "*.xml"),
    ],
    install_requires=[
        "numpy>=1.26",
        "PyYAML",
        "opencv-python-headless",
        "ruckig>=0.14",
        # Kinematics and distances of any arm. 380 MB with its libraries, and still no extra: every arm with an end
        # effector needs it, and a servo process whose checks in space are missing must not be one pip option away.
        "pin>=4.1",
        "rosbags>=0.11.9",
        "mcap",
        "zstandard",
        "backports.zstd; python_version < '3.14'",
        "tyro>=1.0",
        "rich",
    ],
    extras_require={
        "ros": ROS,
        "policy": POLICY,
        "train": TRAIN,
        "sim": SIM,
        "libero": LIBERO,
        "robotwin": ROBOTWIN,
        "ray": RAY,
        "console": CONSOLE,
        "view": VIEW,
        "foxglove": FOXGLOVE,
        "test": TEST,
        "dev": DEV,
        "all": sorted({*ROS, *TRAIN, *LIBERO, *ROBOTWIN, *RAY, *CONSOLE, *FOXGLOVE, *DEV}),
    },
    entry_points={"console_scripts": ["lavla = lavla_ros.cli:main"]},
    zip_safe=False,
)
