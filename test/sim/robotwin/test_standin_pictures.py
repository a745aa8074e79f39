"""What the stand-in's cameras see, drawn for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from sim_bridges.worlds.robotwin.standin import TASKS, StandinTask, make_task
from sim_bridges.worlds.robotwin.standin.task import TABLE_TOP_M

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures("vulkan")]

CAMERAS = ("head_camera", "left_camera", "right_camera")


@pytest.fixture
def stack() -> Iterator[StandinTask]:
    task = make_task("stack_two_blocks")
    task.setup_demo(seed=2)
    yield task
    task.close_env()


def pixel(camera: dict[str, np.ndarray], point_m: np.ndarray) -> tuple[int, int]:
    """Row and column in which a point of the world is drawn, by the camera's own matrices."""
    seen = camera["intrinsic_cv"] @ camera["extrinsic_cv"] @ np.append(point_m, 1.0)
    assert seen[2] > 0, "behind the camera"
    return round(float(seen[1] / seen[2])), round(float(seen[0] / seen[2]))


def is_colour(rgb: np.ndarray, colour: str) -> bool:
    red, green, blue = rgb.astype(int)
    return {
        "red": red > 100 and red > 2 * max(green, blue),
        "blue": blue > 100 and blue > 1.5 * max(red, green),
        "yellow": min(red, green) > 120 and min(red, green) > 2 * blue,
        "green": green > 70 and green > 1.5 * max(red, blue),
    }[colour]


def test_pictures_and_their_matrices(stack: StandinTask) -> None:
    seen = stack.get_obs()["observation"]
    assert tuple(seen) == CAMERAS
    for camera in seen.values():
        assert camera["rgb"].shape == (240, 320, 3) and camera["rgb"].dtype == np.uint8
        assert camera["intrinsic_cv"].shape == (3, 3) and camera["extrinsic_cv"].shape == (3, 4)
        assert camera["cam2world_gl"].shape == (4, 4)
        focal = 120 / np.tan(np.deg2rad(37) / 2)
        np.testing.assert_allclose(camera["intrinsic_cv"], [[focal, 0, 160], [0, focal, 120], [0, 0, 1]], atol=1e-3)
        # OpenGL's camera looks along -z with y up, OpenCV's along z with y down.
        turned = np.linalg.inv(camera["cam2world_gl"] @ np.diag([1, -1, -1, 1]))
        np.testing.assert_allclose(turned[:3], camera["extrinsic_cv"], atol=1e-5)
        assert len(np.unique(camera["rgb"].reshape(-1, 3), axis=0)) > 6


@pytest.mark.parametrize("name", TASKS)
def test_the_head_camera_sees_every_block_where_it_is(name: str) -> None:
    task = make_task(name)
    for seed in range(8):
        task.setup_demo(seed=seed)
        head = task.get_obs()["observation"]["head_camera"]
        for block in task._blocks:
            colour = {"red_block": "red", "blue_block": "blue", "bar": "yellow"}[block.entity.name]
            row, column = pixel(head, block.at_m + np.array([0, 0, block.half_size_m[2]]))
            assert is_colour(head["rgb"][row, column], colour), (name, seed, block.entity.name)
    task.close_env()


def test_the_hands_see_the_blocks_between_their_fingers_and_the_fingers(stack: StandinTask) -> None:
    expert = stack.expert()
    while stack.robot.left.gripper == 1.0 and not expert.done:
        stack.take_action(expert.act())
    seen = stack.get_obs()["observation"]
    for side, block in (("left", stack._blocks[0]), ("right", stack._blocks[1])):
        if (block.at_m[0] < 0) != (side == "left"):
            block = next(other for other in stack._blocks if other is not block)
        image = seen[f"{side}_camera"]["rgb"]
        colour = block.entity.name.removesuffix("_block")
        assert 2000 < np.apply_along_axis(is_colour, 2, image, colour).sum() < 30000
        row, column = pixel(seen[f"{side}_camera"], block.at_m)
        assert is_colour(image[row, column], colour)
        dark = (image.max(axis=2) < 90).sum()
        assert dark > 1500, "no fingers in the picture"


def test_a_moved_block_is_drawn_where_it_went(stack: StandinTask) -> None:
    import sapien

    block = stack._blocks[0]
    before = stack.get_obs()["observation"]["head_camera"]
    block.entity.set_pose(sapien.Pose((0.0, 0.05, TABLE_TOP_M + 0.025)))
    after = stack.get_obs()["observation"]["head_camera"]
    row, column = pixel(after, block.at_m)
    assert not is_colour(before["rgb"][row, column], "red") and is_colour(after["rgb"][row, column], "red")


def test_equal_episodes_give_equal_pictures_and_drawing_changes_no_physics() -> None:
    runs = []
    for drawn in (True, True, False):
        task = make_task("move_blocks_to_pads")
        task.setup_demo(seed=4)
        expert, states, pictures = task.expert(), [], []
        for _ in range(8):
            if drawn:
                seen = task.get_obs()["observation"]
                pictures.append(np.stack([seen[camera]["rgb"] for camera in CAMERAS]))
            task.take_action(expert.act())
            states.append(task.state())
        runs.append((np.array(states), np.array(pictures)))
        task.close_env()
    assert (runs[0][0] == runs[1][0]).all() and (runs[0][0] == runs[2][0]).all()
    assert (runs[0][1] == runs[1][1]).all()
    assert not (runs[0][1][0] == runs[0][1][-1]).all()


def test_without_a_driver_physics_works_and_a_picture_says_what_to_install() -> None:
    code = (
        "from sim_bridges.worlds.robotwin.standin import make_task\n"
        "from sim_bridges.worlds.robotwin.vulkan import NoVulkanError\n"
        "task = make_task('move_blocks_to_pads'); task.setup_demo(seed=0)\n"
        "task.play_once(); assert task.check_success()\n"
        "try:\n    task.get_obs()\nexcept NoVulkanError as error:\n    print(error)\n"
        "task.close_env(clear_cache=True)\n"
    )
    nowhere = dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), "/nonexistent.json")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **nowhere}, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "no Vulkan device" in done.stdout and "mesa-vulkan-drivers from bookworm-backports" in done.stdout
