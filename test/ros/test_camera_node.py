"""The camera node: what drivers and devices deliver, and what is wrong with it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import cv2
import numpy as np
from ros_harness import World, fails_to_start, image_message, picture, pixels_of, running, wait_until
from sensor_msgs.msg import CompressedImage, Image

from lavla_ros.contract import load_contract
from lavla_ros.nodes.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.nodes.messages import IMAGE_QOS
from lavla_ros.observation.images import prepare_image

MODULE = "lavla_ros.nodes.camera_node"


def test_forwards_prepares_and_keeps_capture_stamps(world: World, tmp_path: Path) -> None:
    spec = load_contract("jaka_minicobo").camera("wrist")
    fronts = world.collect(Image, "/observation/front", IMAGE_QOS)
    wrists = world.collect(Image, "/observation/wrist", IMAGE_QOS)
    with running(MODULE, "camera", tmp_path):
        front = world.publisher(Image, "/camera/front/image_raw", IMAGE_QOS)
        wrist = world.publisher(Image, "/camera/wrist/image_raw", IMAGE_QOS)
        stamps = []
        for i in range(5):
            stamps.append(time.time_ns())
            front.publish(image_message(picture(i), stamps[-1]))
            wrist.publish(image_message(picture(i, 480, 640), stamps[-1]))
            time.sleep(0.03)
        wait_until(lambda: len(fronts) == 5 and len(wrists) == 5, "five frames of each camera")
    for i, stamp in enumerate(stamps):
        assert stamp_to_ns(fronts[i].header.stamp) == stamp_to_ns(wrists[i].header.stamp) == stamp
        assert np.array_equal(pixels_of(fronts[i]), picture(i))
        assert np.array_equal(pixels_of(wrists[i]), prepare_image(picture(i, 480, 640), spec))


def test_compressed_driver_topic(world: World, tmp_path: Path) -> None:
    fronts = world.collect(Image, "/observation/front", IMAGE_QOS)
    pixels = picture(3)
    with running(MODULE, "camera", tmp_path, transport="compressed"):
        front = world.publisher(CompressedImage, "/camera/front/image_raw/compressed", IMAGE_QOS)
        message = CompressedImage(format="rgb8; png compressed bgr8")
        message.data.frombytes(cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())
        set_stamp(message.header.stamp, 1_000_000_000)
        front.publish(message)
        wait_until(lambda: fronts, "a frame")
    assert np.array_equal(pixels_of(fronts[0]), pixels)


def test_reports_missing_frozen_bad_and_jumping_cameras(world: World, tmp_path: Path) -> None:
    diagnostics = world.diagnostics()
    with running(MODULE, "camera", tmp_path, missing_after_s=0.3, frozen_after_s=0.4):
        wait_until(lambda: "camera wrist: no frame yet" in diagnostics.message("camera"), "report of a missing camera")
        front = world.publisher(Image, "/camera/front/image_raw", IMAGE_QOS)
        now = time.time_ns()

        bad = image_message(picture(0), now)
        bad.encoding = "16UC1"
        front.publish(bad)
        wait_until(lambda: diagnostics.values("camera").get("front.wrong_encoding") == "1", "wrong encoding")

        bad = image_message(picture(0), now + 1)
        bad.height = 300
        front.publish(bad)
        wait_until(lambda: diagnostics.values("camera").get("front.wrong_size") == "1", "wrong size")

        front.publish(image_message(picture(0), now + 1))
        wait_until(lambda: diagnostics.values("camera").get("front.repeated_stamp") == "1", "repeated stamp")

        front.publish(image_message(picture(1), now + 3_000_000_000))
        wait_until(lambda: diagnostics.values("camera").get("front.clock_jump") == "1", "clock jump")

        def frozen() -> bool:
            front.publish(image_message(picture(1), time.time_ns() + 3_000_000_000))
            time.sleep(0.05)
            return "camera front: frozen" in diagnostics.message("camera")

        wait_until(frozen, "report of a frozen camera")


def test_video_file_is_a_camera(world: World, tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (320, 240))
    for i in range(10):
        writer.write(np.full((240, 320, 3), 20 * i, np.uint8))
    writer.release()
    fronts = world.collect(Image, "/observation/front", IMAGE_QOS)
    raws = world.collect(Image, "/camera/front/image_raw", IMAGE_QOS)
    before = time.time_ns()
    with running(MODULE, "camera", tmp_path, sources=[f"front={video}"], loop=True):
        wait_until(lambda: len(fronts) > 15 and len(raws) > 15, "more frames than the file has (it loops)")
    assert (fronts[0].height, fronts[0].width, raws[0].height, raws[0].width) == (224, 224, 240, 320)
    stamps = [stamp_to_ns(m.header.stamp) for m in fronts]
    assert before < stamps[0] and all(a < b for a, b in itertools.pairwise(stamps))


def test_refuses_what_cannot_work(tmp_path: Path) -> None:
    assert "/dev/video99 does not exist" in fails_to_start(MODULE, "camera", tmp_path, sources=["front=/dev/video99"])
    assert "expected <camera>=<source>" in fails_to_start(MODULE, "camera", tmp_path, sources=["front"])
    assert "available: ['jaka_minicobo'" in fails_to_start(MODULE, "camera", tmp_path, contract="nope")
    assert "missing_after_s" in fails_to_start(MODULE, "camera", tmp_path, missing_after_s=-1.0)
