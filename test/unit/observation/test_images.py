"""Image messages to the policy's images."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from synthetic_messages import image

from lavla_ros.contract import CameraSpec
from lavla_ros.observation import images
from lavla_ros.observation.images import ImageError, decode_image, decode_raw, prepare_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    rows = pixels.reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=padded.shape[1],
        data=padded.tobytes(),
    )


@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_gives_the_same_rgb(padding: int) -> None:
    alpha = np.full((6, 9, 1), 200, np.uint8)
    cases = {
        "rgb8": RGB,
        "bgr8": RGB[:, :, ::-1],
        "rgba8": np.concatenate([RGB, alpha], 2),
        "bgra8": np.concatenate([RGB[:, :, ::-1], alpha], 2),
    }
    for encoding, pixels in cases.items():
        np.testing.assert_array_equal(decode_image(message(pixels, encoding, padding)), RGB, err_msg=encoding)
    gray = decode_image(message(RGB[:, :, :1], "mono8", padding))
    np.testing.assert_array_equal(gray, np.repeat(RGB[:, :, :1], 3, 2))


@pytest.mark.skipif(images.cv_bridge() is None, reason="cv_bridge comes with a ROS distribution only")
@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8", "mono8"])
def test_numpy_and_cv_bridge_agree(encoding: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, images.ENCODINGS[encoding]), dtype=np.uint8)
    msg = message(pixels, encoding)
    np.testing.assert_array_equal(decode_image(msg), decode_raw(msg))


def test_rgb8_is_a_view_of_the_message() -> None:
    buffer = np.zeros(6 * 9 * 3, np.uint8)
    msg = message(RGB, "rgb8")
    msg.data = buffer
    assert np.shares_memory(decode_image(msg), buffer)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images(extension: str) -> None:
    _, data = cv2.imencode(extension, np.full((20, 30, 3), (10, 100, 200), np.uint8))  # BGR
    rgb = decode_image(SimpleNamespace(format="bgr8; jpeg compressed bgr8", data=data.ravel()))
    assert rgb.shape == (20, 30, 3)
    np.testing.assert_allclose(rgb[10, 15], (200, 100, 10), atol=4)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"encoding": "16UC1"}, "wrong_encoding"),
        ({"encoding": "yuv444"}, "wrong_encoding"),
        ({"data": b"\0" * 10}, "wrong_size"),
        ({"data": b"\0" * 10_000}, "wrong_size"),
        ({"data": b""}, "wrong_size"),
        ({"width": 0}, "wrong_size"),
        ({"height": 2**31}, "wrong_size"),
        ({"step": 3}, "wrong_size"),
        ({"step": 2**31}, "wrong_size"),
    ],
)
def test_unusable_raw_images_are_refused_by_kind(change: dict[str, object], kind: str) -> None:
    msg = image(0)
    for key, value in change.items():
        setattr(msg, key, value)
    with pytest.raises(ImageError) as caught:
        decode_image(msg)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("fmt", "data", "kind"),
    [
        ("jpeg", b"not a jpeg", "undecodable"),
        ("png", b"", "wrong_size"),
        ("16UC1; compressedDepth png", b"1234", "wrong_encoding"),
        ("h264", b"1234", "wrong_encoding"),
    ],
)
def test_unusable_compressed_images_are_refused_by_kind(fmt: str, data: bytes, kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(SimpleNamespace(format=fmt, data=data))
    assert caught.value.kind == kind


def test_prepare_is_the_identity_where_nothing_changes() -> None:
    ready = np.zeros((16, 16, 3), np.uint8)
    assert prepare_image(ready, CameraSpec(name="c", topic="/c", width=16, height=16)) is ready


def test_prepare_rotates_clockwise_crops_and_resizes() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:20, 20:40] = 255  # upper left quarter of the central square
    spec = CameraSpec(name="c", topic="/c", width=10, height=10)
    upright = prepare_image(picture, spec)
    assert upright.shape == (10, 10, 3) and upright[2, 2, 0] == 255 and upright[2, 7, 0] == 0 == upright[7, 2, 0]
    turned = prepare_image(picture, CameraSpec(name="c", topic="/c", width=10, height=10, rotate_deg=90))
    assert turned[2, 7, 0] == 255 and turned[2, 2, 0] == 0 == turned[7, 7, 0]  # upper left → upper right
    stretched = prepare_image(picture, CameraSpec(name="c", topic="/c", width=16, height=8, crop="none"))
    assert stretched.shape == (8, 16, 3) and stretched[1, 5, 0] == 255


def test_prepare_refuses_what_is_no_rgb_image() -> None:
    with pytest.raises(ImageError, match="expected \\(H, W, 3\\)"):
        prepare_image(np.zeros((4, 4), np.uint8), CameraSpec(name="c", topic="/c"))
