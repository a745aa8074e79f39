"""Image messages to the policy's images."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from synthetic_messages import image

from lavla_ros.contract import CameraSpec
from lavla_ros.observation import images
from lavla_ros.observation.images import ImageError, decode_depth, decode_image, decode_raw, prepare_image

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


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """A picture that survives halved colour and mosaics: red to the right, green downwards, blue the other way."""
    yy, xx = np.mgrid[0:height, 0:width]
    return np.stack([40 + xx * 160 // width, 40 + yy * 160 // height, 200 - xx * 150 // width], 2).astype(np.uint8)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Inside of a border of two pixels, where mosaics have neighbours on all sides."""
    assert found.shape == wanted.shape and found.dtype == np.uint8
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(found[inner].astype(int), wanted[inner].astype(int), atol=tolerance)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_mosaics(pattern: str, bits: int, padding: int) -> None:
    rgb = smooth()
    mosaic = np.zeros(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):  # row by row of the upper left 2×2 pixels
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    if bits == 8:
        close(decode_image(message(mosaic, "bayer_" + pattern + "8", padding)), rgb, 10)
    else:
        wide = (mosaic.astype("<u2") * 257).view(np.uint8)
        msg = message(wide, "bayer_" + pattern + "16", padding)
        msg.width //= 2
        close(decode_image(msg), rgb, 10)


def planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) Y, U and V of BT.601 in the limited range, as cameras send them."""
    r, g, b = (rgb[:, :, i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (y, u, v))  # type: ignore[return-value]


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuyv", "yuv422_yuy2", "nv12", "nv21", "nv24"])
def test_cameras_that_send_luma_and_chroma(encoding: str, padding: int) -> None:
    rgb = smooth(12, 16).repeat(2, axis=0).repeat(2, axis=1)  # what shares its colour has one
    height, width = rgb.shape[:2]
    y, u, v = planes(rgb)
    if encoding in ("yuv422", "uyvy", "yuyv", "yuv422_yuy2"):
        chroma = np.empty_like(y)
        chroma[:, 0::2], chroma[:, 1::2] = u[:, 0::2], v[:, 0::2]
        order = (chroma, y) if encoding in ("yuv422", "uyvy") else (y, chroma)
        msg = message(np.stack(order, 2), encoding, padding)
    elif encoding == "nv24":
        pairs = np.pad(np.stack([u, v], 2).reshape(height, 2 * width), ((0, 0), (0, 2 * padding)))
        luma = np.pad(y, ((0, 0), (0, padding)))
        msg = message(y, encoding, padding)
        msg.data = luma.tobytes() + pairs.tobytes()
    else:
        halves = (u, v) if encoding == "nv12" else (v, u)
        pairs = np.stack([half[0::2, 0::2] for half in halves], 2).reshape(height // 2, width)
        msg = message(np.concatenate([y, pairs]), encoding, padding)
        msg.height = height
    close(decode_image(msg), rgb, 3)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgr16", "rgba16", "bgra16"])
def test_sixteen_bits_in_either_byte_order(encoding: str, big: int) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    pixels = values[:, :, ::-1] if encoding.startswith("bgr") else values
    if encoding == "mono16":
        pixels = values[:, :, :1]
    elif "a" in encoding:
        pixels = np.concatenate([pixels, np.full((6, 8, 1), 9, np.uint16)], 2)
    stored = np.ascontiguousarray(pixels.astype(">u2" if big else "<u2")).view(np.uint8)
    msg = message(stored, encoding, 4)
    msg.is_bigendian = big
    wanted = np.rint(values * (255 / 65535)).astype(np.uint8)
    wanted = np.repeat(wanted[:, :, :1], 3, 2) if encoding == "mono16" else wanted
    np.testing.assert_array_equal(decode_image(msg), wanted)


def test_opencv_names_are_taken_where_their_order_is_known() -> None:
    np.testing.assert_array_equal(decode_image(message(RGB[:, :, :1], "8UC1")), np.repeat(RGB[:, :, :1], 3, 2))
    alpha = np.full((6, 9, 1), 200, np.uint8)
    for encoding, pixels in (("8UC3", RGB), ("8UC4", np.concatenate([RGB, alpha], 2))):
        with pytest.raises(ImageError, match="channel_order"):
            decode_image(message(pixels, encoding))
        np.testing.assert_array_equal(decode_image(message(pixels, encoding), "rgb8"), RGB)
        turned = np.concatenate([pixels[:, :, 2::-1], pixels[:, :, 3:]], 2)
        np.testing.assert_array_equal(decode_image(message(turned, encoding), "bgr8"), RGB)


@pytest.mark.parametrize(
    ("encoding", "says"),
    [("16UC1", "name the colour camera"), ("32FC1", "name the colour camera"), ("yuv444", "image_proc")],
)
def test_a_refused_encoding_says_what_helps(encoding: str, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode_image(message(RGB, encoding))
    assert caught.value.kind == "wrong_encoding" and encoding in str(caught.value)


FAKE_BRIDGES = {
    "works": "return m.data_rgb if hasattr(m, 'data_rgb') else "
    "np.frombuffer(m.data, np.uint8).reshape(m.height, m.width, -1)[:, :, ::-1].copy()",
    "raises as with another numpy": "raise AttributeError('_ARRAY_API not found')",
    "crashes as with another numpy": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "is wrong": "return np.zeros((m.height, m.width, 3), np.uint8)",
    "cannot be imported": "",
}


@pytest.mark.parametrize("case", FAKE_BRIDGES)
def test_cv_bridge_is_used_only_where_it_works(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = FAKE_BRIDGES[case]
    code = (
        "import numpy as np\nclass CvBridge:\n    def imgmsg_to_cv2(self, m, desired_encoding):\n        " + body
        if body
        else "raise ImportError('numpy.core.multiarray failed to import')"
    )
    (tmp_path / "cv_bridge.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    images.cv_bridge.cache_clear()
    try:
        assert (images.cv_bridge() is not None) == (case == "works")
        np.testing.assert_array_equal(decode_image(message(RGB[:, :, ::-1], "bgr8")), RGB)
    finally:
        images.cv_bridge.cache_clear()


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


@pytest.mark.parametrize("format_", ["bgr8; jpeg compressed bgr8", "rgb8; png compressed ", "jpeg", "", "anything"])
@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tiff"])
def test_compressed_images(extension: str, format_: str) -> None:
    _, data = cv2.imencode(extension, np.full((20, 30, 3), (10, 100, 200), np.uint8))  # BGR
    rgb = decode_image(SimpleNamespace(format=format_, data=data.ravel()))
    assert rgb.shape == (20, 30, 3)
    np.testing.assert_allclose(rgb[10, 15], (200, 100, 10), atol=4)


def test_compressed_pixels_are_in_the_order_that_the_format_names() -> None:
    """compressed_image_transport hands rgb8 to a codec that takes bgr8, and says so."""
    _, data = cv2.imencode(".png", RGB)
    np.testing.assert_array_equal(
        decode_image(SimpleNamespace(format="rgb8; png compressed rgb8", data=data.ravel())), RGB
    )
    np.testing.assert_array_equal(
        decode_image(SimpleNamespace(format="bgr8; png compressed bgr8", data=data.ravel())), RGB[:, :, ::-1]
    )


def test_compressed_gray_mosaics_and_sixteen_bits() -> None:
    gray = RGB[:, :, 0]

    def compressed(pixels: np.ndarray, format_: str) -> SimpleNamespace:
        return SimpleNamespace(format=format_, data=cv2.imencode(".png", pixels)[1].ravel())

    np.testing.assert_array_equal(
        decode_image(compressed(gray, "mono8; png compressed ")), np.repeat(gray[:, :, None], 3, 2)
    )
    wide = gray.astype(np.uint16) * 257
    np.testing.assert_array_equal(
        decode_image(compressed(wide, "mono16; png compressed ")), np.repeat(gray[:, :, None], 3, 2)
    )
    for format_ in ("16UC1; png compressed ", "png", ""):
        with pytest.raises(ImageError, match="depth") as caught:
            decode_image(compressed(wide, format_))
        assert caught.value.kind == "wrong_encoding"
    np.testing.assert_array_equal(
        decode_image(compressed(RGB.astype(np.uint16) * 257, "bgr16; png compressed bgr16")), RGB[:, :, ::-1]
    )
    rgb = smooth()
    mosaic = np.zeros(rgb.shape[:2], np.uint8)
    for place, colour in enumerate("rggb"):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    close(decode_image(compressed(mosaic, "bayer_rggb8; png compressed ")), rgb, 10)


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


def _depth_message(mm: np.ndarray, encoding: str, big: bool = False, padding: int = 0) -> SimpleNamespace:
    code = mm.astype(mm.dtype.newbyteorder(">" if big else "<")).view(np.uint8).reshape(len(mm), -1)
    rows = np.pad(code, ((0, 0), (0, padding)))
    height, width = mm.shape
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=big, step=rows.shape[1], data=rows.tobytes()
    )


@pytest.mark.parametrize("big", [False, True])
def test_depth_is_in_millimetres_whatever_it_comes_in(big: bool) -> None:
    mm = np.array([[0, 1, 65535], [256, 1234, 7]], np.uint16)
    np.testing.assert_array_equal(decode_depth(_depth_message(mm, "16UC1", big, 5)), mm)
    metres = np.array([[np.nan, np.inf, -1.0], [1.2344, 65.6, 0.0006]], np.float32)
    np.testing.assert_array_equal(decode_depth(_depth_message(metres, "32FC1", big, 3)), [[0, 0, 0], [1234, 0, 1]])
    png = cv2.imencode(".png", mm)[1].tobytes()
    for format_, data in (("16UC1; png compressed", png), ("16UC1; compressedDepth png", bytes(12) + png)):
        np.testing.assert_array_equal(decode_depth(SimpleNamespace(format=format_, data=data)), mm)


@pytest.mark.parametrize(
    "message",
    [
        _depth_message(np.zeros((2, 2), np.uint8), "mono8"),
        SimpleNamespace(format="jpeg", data=b"\xff\xd8"),
        SimpleNamespace(format="16UC1; compressedDepth png", data=b""),
        SimpleNamespace(
            format="16UC1; png compressed", data=cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes()
        ),
        SimpleNamespace(
            format="32FC1; compressedDepth png", data=cv2.imencode(".png", np.zeros((2, 2), np.uint16))[1].tobytes()
        ),
        SimpleNamespace(**{**vars(_depth_message(np.zeros((2, 2), np.uint16), "16UC1")), "data": b"12"}),
        SimpleNamespace(**{**vars(_depth_message(np.zeros((2, 2), np.uint16), "16UC1")), "step": 1}),
    ],
)
def test_what_is_no_depth_is_refused(message: SimpleNamespace) -> None:
    with pytest.raises(ImageError):
        decode_depth(message)


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
