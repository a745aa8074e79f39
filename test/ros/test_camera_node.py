"""The camera node: what drivers and devices deliver, and what is wrong with it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import qos_profile_sensor_data
from ros_harness import World, fails_to_start, image_message, picture, pixels_of, refusal, running, wait_until
from sensor_msgs.msg import CompressedImage, Image

from lavla_ros.contract import load_contract
from lavla_ros.nodes.camera_node import CameraNode
from lavla_ros.observation.images import prepare_image
from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.ros.messages import IMAGE_QOS

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
            # One after the other: the queues are short, and a subscription may still be finding its publisher.
            wait_until(lambda n=i + 1: len(fronts) == len(wrists) == n, f"frame {i} of each camera")
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


def test_a_best_effort_driver_is_heard(world: World, tmp_path: Path) -> None:
    """Sensor-data QoS, as many drivers have it."""
    fronts = world.collect(Image, "/observation/front", IMAGE_QOS)
    diagnostics = world.diagnostics()
    with running(MODULE, "camera", tmp_path):
        front = world.publisher(Image, "/camera/front/image_raw", qos_profile_sensor_data)
        front.publish(image_message(picture(0, 480, 640), time.time_ns()))
        wait_until(lambda: fronts, "a frame")
        named = "/camera/front/image_raw.publishers"
        wait_until(lambda: diagnostics.values("camera").get(named) == "/world (best effort)", "the driver's name")
        wait_until(
            lambda: "no node publishes /camera/wrist/image_raw" in diagnostics.message("camera"), "who is not there"
        )


def test_frozen_pictures_are_no_observation(world: World, tmp_path: Path) -> None:
    """The same pixels with fresh stamps: a hung driver. With the setting for rendered cameras they pass."""
    for frozen_after_s, passes in ((0.3, False), (0.0, True)):
        fronts = world.collect(Image, "/observation/front", IMAGE_QOS)
        with running(MODULE, "camera", tmp_path, frozen_after_s=frozen_after_s):
            front = world.publisher(Image, "/camera/front/image_raw", IMAGE_QOS)
            stamps: list[int] = []

            def send(seed: int, seconds: float, front: Any = front, stamps: list[int] = stamps) -> None:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    stamps.append(time.time_ns())
                    front.publish(image_message(picture(seed), stamps[-1]))
                    time.sleep(0.03)

            # What is sent once is lost until either side has found the other.
            wait_until(lambda send=send, fronts=fronts: send(2, 0.01) or fronts, "a picture")
            first = len(stamps)
            send(0, 1.2)
            frozen = stamps[-1]
            send(1, 0.1)
            passed = lambda fronts=fronts: [stamp_to_ns(m.header.stamp) for m in list(fronts)]  # noqa: E731
            wait_until(lambda passed=passed, stamps=stamps: stamps[-1] in passed(), "the changed picture")
            assert stamps[first] in passed(), "a picture is not frozen before its time"
            assert (frozen in passed()) == passes


def test_stamps_of_another_clock_are_an_error(world: World, tmp_path: Path) -> None:
    """Boot clock, simulation, a computer that is 2 s ahead, and no stamp at all."""
    diagnostics = world.diagnostics()
    with running(MODULE, "camera", tmp_path):
        front = world.publisher(Image, "/camera/front/image_raw", IMAGE_QOS)
        seeds = itertools.count()
        for offset_s, text in ((-1.7e9, "s old on arrival: another clock"), (2.0, "s ahead on arrival"), (None, "(0)")):

            def said(offset_s: float | None = offset_s, text: str = text) -> bool:
                stamp_ns = 0 if offset_s is None else time.time_ns() + int(offset_s * 1e9)
                front.publish(image_message(picture(next(seeds)), stamp_ns))
                time.sleep(0.03)
                newest = diagnostics.newest("camera")
                return newest is not None and text in newest.message and newest.level == DiagnosticStatus.ERROR

            wait_until(said, text)


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


def test_refuses_what_cannot_work(world: World, tmp_path: Path) -> None:
    assert "/dev/video99 does not exist" in fails_to_start(MODULE, "camera", tmp_path, sources=["front=/dev/video99"])
    assert "expected <camera>=<source>" in refusal(world, CameraNode, contract="jaka_minicobo", sources=["front"])
    assert "available: ['jaka_minicobo'" in refusal(world, CameraNode, contract="nope")
    assert "missing_after_s" in refusal(world, CameraNode, contract="jaka_minicobo", missing_after_s=-1.0)
