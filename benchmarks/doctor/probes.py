"""Where the facts come from: this machine, its files and devices, and the controller, on which nothing is changed."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.doctor import checks
from benchmarks.doctor.checks import ControllerFacts, Finding
from lavla_ros.contract import Contract
from lavla_ros.control.arms import arm_of
from lavla_ros.control.chain import Chain
from lavla_ros.errors import UserError
from lavla_ros.jaka.client import JakaClient
from lavla_ros.jaka.codec import JakaProtocolError
from lavla_ros.jaka.dh import differences
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.errors import ControllerBusyError, JakaConnectionError, JakaError
from lavla_ros.jaka.lock import ControllerLock
from lavla_ros.jaka.status import StatusStream

DISK_BYTES = 32 * checks.MIB
STATUS_S = 1.0
_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='.1'/></worldbody></mujoco>")
with mujoco.Renderer(model, 16, 16) as renderer:
    data = mujoco.MjData(model); mujoco.mj_forward(model, data); renderer.update_scene(data); renderer.render()
"""


def machine(folder: Path, contract: Contract) -> Iterator[Finding]:
    """Every check of the machine itself. ``folder``: where bags are recorded."""
    began = time.time() - time.monotonic()
    yield gl()
    yield ros()
    yield shared_memory(Path("/dev/shm"))
    yield checks.check_udp_buffer(_number(Path("/proc/sys/net/core/rmem_max")))
    yield checks.check_governor(governors(Path("/sys/devices/system/cpu")))
    yield realtime()
    yield disk(folder, contract)
    yield gpu()
    yield checks.check_inputs(input_devices(Path("/proc/bus/input/devices"), Path("/dev/input")))
    yield checks.check_video({str(f): os.access(f, os.R_OK | os.W_OK) for f in sorted(Path("/dev").glob("video*"))})
    synchronised, error_s = clock()
    yield checks.check_clock(synchronised, error_s, time.time() - time.monotonic() - began)


def gl() -> Finding:
    """In a process of its own: a driver that does not work may end it."""
    from sim_bridges.gl import GL_PACKAGES, choose_gl_backend

    backend = choose_gl_backend()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DRAW], capture_output=True, text=True, timeout=60.0, check=False, encoding="utf-8"
        )
        lines = done.stderr.strip().splitlines()
        error = "" if done.returncode == 0 else lines[-1] if lines else f"it ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        error = "no picture within 60 s"
    return checks.check_gl(backend, error, GL_PACKAGES)


def ros() -> Finding:
    from lavla_ros.bringup.domain import domain_id
    from lavla_ros.bringup.environment import DISCOVERY, ros_environment

    try:
        environment = ros_environment()
        domain = domain_id(environment)
    except UserError as error:
        return checks.check_ros(str(error), "", 0, "")
    done = subprocess.run(
        [sys.executable, "-c", "import rclpy, sensor_msgs.msg"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    said = done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""
    return checks.check_ros(said, environment.get("RMW_IMPLEMENTATION", ""), domain, environment[DISCOVERY])


def shared_memory(folder: Path) -> Finding:
    """``folder``: /dev/shm."""
    usage = shutil.disk_usage(folder)
    left = sum(1 for file in folder.glob("fastrtps_*_el") if not _is_locked(file))
    return checks.check_shared_memory(usage.total, usage.free, left)


def _is_locked(file: Path) -> bool:
    """Whether the participant that a lock file of Fast DDS is of still lives."""
    import fcntl

    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def governors(folder: Path) -> dict[str, int]:
    """``folder``: /sys/devices/system/cpu."""
    files = folder.glob("cpu[0-9]*/cpufreq/scaling_governor")
    return dict(Counter(file.read_text(encoding="utf-8").strip() for file in files))


def realtime() -> Finding:
    limit = max(resource.getrlimit(resource.RLIMIT_RTPRIO))
    memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] in (resource.RLIM_INFINITY, -1)
    return checks.check_realtime(
        limit if limit >= 0 else 99,
        memory_locked=memory,
        keeps_awake=os.access("/dev/cpu_dma_latency", os.W_OK),
        root=os.geteuid() == 0,
    )


def disk(folder: Path, contract: Contract) -> Finding:
    """Write for a second at most, synced, and remove it."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    speed = None
    with suppress(OSError), tempfile.TemporaryFile(dir=existing) as file:
        block, began = os.urandom(checks.MIB), time.perf_counter()
        written = 0
        while written < DISK_BYTES and time.perf_counter() - began < 1.0:
            written += file.write(block)
        file.flush()
        os.fsync(file.fileno())
        speed = written / (time.perf_counter() - began)
    return checks.check_disk(str(folder), shutil.disk_usage(existing).free, speed, contract)


def gpu() -> Finding:
    """PyTorch is asked only if there is a GPU: it takes seconds to import."""
    program = shutil.which("nvidia-smi")
    names: list[str] = []
    if program is not None:
        done = subprocess.run(
            [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    if not names:
        return checks.check_gpu((), None)
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    done_code = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
    return checks.check_gpu(names, done_code == 0)


def input_devices(listing: Path, folder: Path) -> dict[str, bool]:
    """Keyboards, gamepads and the like. ``listing``: /proc/bus/input/devices; ``folder``: /dev/input."""
    found = {}
    with suppress(OSError):
        for block in listing.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            lines = {line[:2]: line[3:] for line in block.splitlines()}
            name = lines.get("N:", "").partition('"')[2].rstrip('"')
            events = [word for word in lines.get("H:", "").replace("Handlers=", "").split() if word.startswith("event")]
            for event in events:
                if (file := folder / event).exists():
                    found[f"{name} ({event})"] = os.access(file, os.R_OK)
    return found


def clock() -> tuple[bool | None, float]:
    """Whether the kernel's clock is synchronised, and its largest error, s."""

    class Timex(ctypes.Structure):
        _fields_ = [
            ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
            ("rest", ctypes.c_long * 64),
        ]  # fmt: skip

    timex = Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None, 0.0
    return (None, 0.0) if state < 0 else (state != 5, timex.maxerror * 1e-6)  # 5: TIME_ERROR, not synchronised


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------------- the controller


def controller(config: JakaDriverConfig, contract: Contract) -> list[Finding]:
    """A JAKA controller. Raises ConfigError for a contract whose robot is no arm that is known."""
    facts = controller_facts(config, arm_of(contract).chain)
    return checks.check_controller(
        facts, gripper_output=config.tool_output if contract.action.gripper_indices else None
    )


def controller_facts(config: JakaDriverConfig, chain: Chain | None) -> ControllerFacts:
    """Its status is read, on the port where nothing is sent. Its arm is asked for its geometry only if it stands and no
    process of this machine commands it: a later connection takes the controller from an earlier one."""
    address = f"{config.host}:{config.port}"
    stream = StatusStream(config.host, config.status_port, connect_timeout_s=config.connect_timeout_s)
    stream.start()
    try:
        stream.wait_newer(0, config.connect_timeout_s)
        before = stream.counters.messages
        time.sleep(STATUS_S)
        status, count = stream.latest, stream.counters.messages - before
    except JakaConnectionError as error:
        return ControllerFacts(address=address, error=str(error))
    finally:
        stream.stop()
    assert status is not None
    differences_, busy, tells = None, "", True
    lock = ControllerLock(config.host, config.port)
    try:
        lock.acquire()
        moving = status.planned_motion or status.taken
        if moving:
            busy = f"the arm is {status.taken or 'moving'}"
        elif chain is not None:
            with JakaClient(config.host, config.port, None, connect_timeout_s=config.connect_timeout_s) as client:
                differences_ = tuple(differences(chain, client.get_dh_param()))
    except ControllerBusyError as error:
        busy = str(error)
    except JakaConnectionError as error:
        return ControllerFacts(address=address, error=str(error))
    except (JakaError, JakaProtocolError):  # an older firmware
        tells = False
    finally:
        lock.release()
    return ControllerFacts(
        address=address,
        rate_hz=count / STATUS_S,
        faults=(status.error,) if status.error else (),
        taken=status.taken or "",
        powered_on=status.powered_on,
        enabled=status.enabled,
        tool_outputs=len(status.tool_outputs),
        says_commanded=status.commanded_rad is not None,
        busy=busy,
        differences=differences_,
        firmware_tells=tells,
    )
