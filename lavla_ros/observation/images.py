"""Image messages → RGB arrays → the image that the policy sees.

Messages are duck-typed: an ``rclpy`` message, one deserialised by ``rosbags``, or any object with
the same attributes. Encodings are those of ``sensor_msgs/image_encodings`` that a colour camera sends, and of
CompressedImage JPEG, PNG, WebP and TIFF. ``cv_bridge`` converts what it always did where it is installed and works
(a ROS distribution); elsewhere numpy and OpenCV do the same. Both start from the same checks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec
from lavla_ros.errors import UserError

ChannelOrder = Literal["", "rgb8", "bgr8"]
"""What 8UC3 and 8UC4 hold, as the contract's camera says it; empty: it was not said."""

_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg": cv2.COLOR_BayerGRBG2RGB,
}
_YUV422 = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_CHANNELS8 = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4}
_CHANNELS16 = {"rgb16": 3, "bgr16": 3, "rgba16": 4, "bgra16": 4, "mono16": 1}

ENCODINGS: dict[str, int] = {
    **_CHANNELS8,
    **{name: 2 * channels for name, channels in _CHANNELS16.items()},
    **{f"{name}8": 1 for name in _BAYER},
    **{f"{name}16": 2 for name in _BAYER},
    **dict.fromkeys(_YUV422, 2),
    **dict.fromkeys((*_YUV420, "nv24"), 1),
}
"""Encodings of sensor_msgs/Image that are understood → bytes per pixel (of the first plane)."""
_PLANES = {"nv12": 1.5, "nv21": 1.5, "nv24": 3.0}
"""Rows of ``step`` bytes per picture row, where it is not 1."""
_BRIDGED = ("bgr8", "rgba8", "bgra8", "mono8")
"""What cv_bridge converts; the rest it lacks, or does as we do with OpenCV."""

_CODECS = ("jpeg", "jpg", "png", "webp", "tiff")
_FORMAT = re.compile(r"\s*(?P<original>\w+)\s*;\s*\w+\s+compressed\s*(?P<stored>\w*)\s*", re.IGNORECASE)
_MAX_SIDE = 16_384


class ImageError(UserError, ValueError):
    """An image message cannot be used. ``kind`` is the counter it belongs to."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_image(msg: Any, channel_order: ChannelOrder = "") -> None:
    """Check size and encoding of a raw or compressed image message in O(1), without decoding.

    Raises ImageError with kind ``wrong_encoding`` or ``wrong_size``.
    """
    if hasattr(msg, "format"):  # sensor_msgs/CompressedImage
        _check_compressed(msg)
        return
    encoding = msg.encoding
    pixel_bytes = ENCODINGS.get(encoding)
    if pixel_bytes is None or (encoding in ("8UC3", "8UC4") and not channel_order):
        raise ImageError("wrong_encoding", f"image encoding is {encoding!r}; {_remedy(encoding)}")
    height, width, step, size = int(msg.height), int(msg.width), int(msg.step), len(msg.data)
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ImageError("wrong_size", f"image is {width}x{height}; expected sides of 1 to {_MAX_SIDE} pixels")
    if (encoding in _YUV422 and width % 2) or (encoding in _YUV420 and (width % 2 or height % 2)):
        raise ImageError("wrong_size", f"image is {width}x{height}; {encoding} pixels share their colour: even sides")
    row = width * pixel_bytes
    if step < row:
        raise ImageError("wrong_size", f"image step is {step} bytes; {width} {encoding} pixels need {row}")
    rows = round(height * _PLANES.get(encoding, 1))
    if size < step * (rows - 1) + row or size > step * rows:
        raise ImageError(
            "wrong_size",
            f"image of {width}x{height} {encoding} with step {step} carries {size} bytes; expected {step * rows}",
        )


def decode_depth(msg: Any) -> NDArray[np.uint16]:
    """(H, W) millimetres of a depth message, 0 where nothing is known. Raises ImageError for what is none.

    16UC1 is in millimetres, 32FC1 in metres: its NaN, infinite and negative values, and what 16 bits do not hold, are
    unknown. Compressed messages are PNG of 16 bits, after the header of compressedDepth if there is one.
    """
    if hasattr(msg, "format"):
        code = np.frombuffer(bytes(msg.data), np.uint8)
        start = max(bytes(msg.data[:64]).find(b"\x89PNG"), 0)
        image = cv2.imdecode(code[start:], cv2.IMREAD_UNCHANGED) if len(code) > start else None
        if image is None or image.dtype != np.uint16 or image.ndim != 2 or "32FC1" in str(msg.format):
            raise ImageError("wrong_encoding", f"compressed format is {msg.format!r}; expected a PNG of 16UC1")
        return np.asarray(image, np.uint16)
    kinds = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
    if msg.encoding not in kinds:
        raise ImageError("wrong_encoding", f"depth encoding is {msg.encoding!r}; expected 16UC1 (mm) or 32FC1 (m)")
    kind = np.dtype(kinds[msg.encoding]).newbyteorder(">" if msg.is_bigendian else "<")
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    code = np.frombuffer(bytes(msg.data), np.uint8)
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE and step >= width * kind.itemsize) or (
        len(code) != step * height
    ):
        raise ImageError("wrong_size", f"depth of {width}x{height} with step {step} carries {len(code)} bytes")
    rows = np.ascontiguousarray(code.reshape(height, step)[:, : width * kind.itemsize]).view(kind)
    if kind.kind == "u":
        return rows.astype(np.uint16)
    mm = np.rint(rows.astype(np.float64) * 1e3)
    known = np.isfinite(mm) & (mm > 0) & (mm <= np.iinfo(np.uint16).max)
    return np.where(known, mm, 0).astype(np.uint16)


def _remedy(encoding: str) -> str:
    """What to do about an encoding that is not taken."""
    if encoding in ("8UC3", "8UC4"):
        return (
            "it does not say whether red or blue comes first: say channel_order: bgr8 (what OpenCV holds) or rgb8 for "
            "this camera in the contract, or have the driver publish bgr8 or rgb8"
        )
    if re.fullmatch(r"(8|16|32|64)[USF]C?\d+", encoding):
        return (
            "these are numbers of unknown meaning and range (depth?), no colour picture: name the colour camera's topic"
        )
    return f"expected one of {sorted(ENCODINGS)}; have the driver publish one of them, or decode it with image_proc"


def _check_compressed(msg: Any) -> None:
    text = str(msg.format).lower()
    if "compresseddepth" in text:
        raise ImageError("wrong_encoding", f"compressed image format is {msg.format!r}: depth, no colour picture")
    if len(msg.data) == 0:
        raise ImageError("wrong_size", "compressed image has no data")
    named = any(name in text for name in _CODECS)
    if not (named or not text.strip() or _magic(msg.data)):
        raise ImageError(
            "wrong_encoding",
            f"compressed image format is {msg.format!r}; expected one of {list(_CODECS)} (packets of a video codec: "
            "decode them with image_transport's republish first)",
        )


def _magic(data: Any) -> str:
    """The codec that the data begin with; empty for an unknown one."""
    head = bytes(data[:12])
    begins = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"II*\0": "tiff", b"MM\0*": "tiff"}
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webp"
    return next((name for begin, name in begins.items() if head.startswith(begin)), "")


def decode_image(msg: Any, channel_order: ChannelOrder = "") -> NDArray[np.uint8]:
    """Decode sensor_msgs/Image or CompressedImage to (H, W, 3) RGB uint8; 16 bits are scaled to 8 by 255 / 65535.

    ``channel_order`` says what 8UC3 and 8UC4 hold. An ``rgb8`` image comes back as a view of the message's buffer
    (nothing is copied): copy it before the message goes away or is reused. Raises ImageError as :func:`check_image`
    does, and with kind ``undecodable`` when the compressed bytes are corrupt.
    """
    check_image(msg, channel_order)
    if hasattr(msg, "format"):
        return _decode_compressed(msg)
    if msg.encoding in _BRIDGED and (bridge := cv_bridge()) is not None:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(msg, desired_encoding="rgb8"), dtype=np.uint8)
        except Exception:  # noqa: BLE001 (whatever it stumbles over, we can do it)
            return decode_raw(msg, channel_order)
    return decode_raw(msg, channel_order)


def decode_raw(msg: Any, channel_order: ChannelOrder = "") -> NDArray[np.uint8]:
    """Any raw encoding with numpy and OpenCV; the message has passed :func:`check_image`."""
    encoding: str = msg.encoding
    if encoding in _CHANNELS8:
        named = channel_order + ("a" if encoding == "8UC4" else "") if encoding in ("8UC3", "8UC4") else encoding
        return _ordered(_rows(msg, _CHANNELS8[encoding]), named)
    if encoding in _CHANNELS16:
        return _ordered(_to_8_bits(_rows16(msg, _CHANNELS16[encoding])), encoding)
    if encoding in _YUV422:
        return _rgb(cv2.cvtColor(np.ascontiguousarray(_rows(msg, 2)), _YUV422[encoding]))
    if encoding in _YUV420:
        return _decode_yuv420(msg)
    if encoding == "nv24":
        return _decode_nv24(msg)
    mosaic = _rows(msg, 1) if encoding.endswith("8") else _to_8_bits(_rows16(msg, 1))
    return _demosaic(mosaic[:, :, 0], encoding)


def _rows(msg: Any, channels: int) -> NDArray[np.uint8]:
    """(H, W, channels) view of the message's bytes, row padding left out."""
    shape, step = (int(msg.height), int(msg.width), channels), int(msg.step)
    flat = np.frombuffer(msg.data, np.uint8)
    return np.lib.stride_tricks.as_strided(flat, shape, (step, channels, 1), writeable=False)


def _rows16(msg: Any, channels: int) -> NDArray[np.uint16]:
    """(H, W, channels) of 16 bits in this machine's byte order."""
    pairs = np.ascontiguousarray(_rows(msg, 2 * channels))
    return pairs.view(np.dtype(">u2" if msg.is_bigendian else "<u2")).astype(np.uint16, copy=False)


def _decode_yuv420(msg: Any) -> NDArray[np.uint8]:
    """A plane of Y, then one of UV (nv12) or VU pairs for every 2×2 pixels, with as many bytes per row."""
    rows, width, step = int(msg.height) * 3 // 2, int(msg.width), int(msg.step)
    flat = np.frombuffer(msg.data, np.uint8)
    planes = np.lib.stride_tricks.as_strided(flat, (rows, width), (step, 1), writeable=False)
    return _rgb(cv2.cvtColor(np.ascontiguousarray(planes), _YUV420[msg.encoding]))


def _decode_nv24(msg: Any) -> NDArray[np.uint8]:
    """A plane of Y, then one of UV pairs for every pixel. To OpenCV that is nv12 of a picture of twice the size."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    flat = np.frombuffer(msg.data, np.uint8)
    luma = _rows(msg, 1)[:, :, 0].repeat(2, axis=0).repeat(2, axis=1)
    pairs = np.lib.stride_tricks.as_strided(flat[height * step :], (height, 2 * width), (2 * step, 1), writeable=False)
    doubled = _rgb(cv2.cvtColor(np.concatenate([luma, pairs]), cv2.COLOR_YUV2RGB_NV12))
    return np.ascontiguousarray(doubled[::2, ::2])


def _ordered(pixels: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    """(H, W, 1, 3 or 4) in the order that ``encoding`` names → (H, W, 3) RGB."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if encoding.startswith("rgb"):
        return pixels[:, :, :3]
    return pixels[:, :, 2::-1]


def _to_8_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Scaled as cv_bridge does it."""
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / 65535), np.uint8).reshape(pixels.shape)


def _demosaic(mosaic_HW: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    return _rgb(cv2.cvtColor(np.ascontiguousarray(mosaic_HW), _BAYER[encoding.rstrip("0123456789")]))


def _rgb(image: Any) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)


def _decode_compressed(msg: Any) -> NDArray[np.uint8]:
    data = np.frombuffer(msg.data, np.uint8)
    what = f"compressed image ({msg.format!r}, {len(data)} bytes)"
    try:
        # unchanged: the camera node applies rotations from the contract; a JPEG's EXIF tag must not add its own
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("undecodable", f"{what}: {error}") from None
    if image is None:
        raise ImageError("undecodable", f"{what} is corrupt")
    pattern = _FORMAT.fullmatch(str(msg.format))
    original, stored = (pattern["original"].lower(), pattern["stored"].lower()) if pattern else ("", "")
    gray = image.ndim == 2 or image.shape[2] == 1
    if image.dtype not in (np.uint8, np.uint16) or (
        image.dtype == np.uint16 and gray and not original.startswith(("mono", "bayer"))
    ):
        raise ImageError("wrong_encoding", f"{what} holds {image.dtype} of unknown meaning (depth?), no colour picture")
    pixels = image.reshape(*image.shape[:2], -1)
    pixels = _to_8_bits(pixels) if pixels.dtype == np.uint16 else pixels
    if gray and original.rstrip("0123456789") in _BAYER:
        return _demosaic(pixels[:, :, 0], original)
    # cv2 decodes to BGR. A writer that named its pixels rgb8 gave them to the codec as if they were BGR.
    return np.ascontiguousarray(_ordered(pixels, "rgb8" if stored in ("rgb8", "rgb16") else "bgr8"))


@lru_cache(maxsize=1)
def cv_bridge() -> Any:
    """A CvBridge that was seen to work, or None.

    One that was built for another major version of numpy raises, or takes its process down, when it first converts:
    under numpy 2, for which distributions do not build theirs yet, a child process tries it.
    """
    if find_spec("cv_bridge") is None:
        return None
    if int(np.__version__.split(".")[0]) >= 2:
        probe = "import sys; from lavla_ros.observation import images; sys.exit(images._load_bridge() is None)"
        path = [entry for entry in sys.path if entry]
        try:
            child = subprocess.run(
                [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {probe}"], capture_output=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if child.returncode != 0:
            return None
    return _load_bridge()


def _load_bridge() -> Any:
    try:
        # present on machines with a ROS distribution only: no wheel exists
        from cv_bridge import CvBridge  # type: ignore[import-not-found,unused-ignore]

        bridge = CvBridge()
        pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        message = SimpleNamespace(height=2, width=2, encoding="bgr8", is_bigendian=0, step=6, data=pixels.tobytes())
        works = np.array_equal(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"), pixels[:, :, ::-1])
    except Exception:  # noqa: BLE001 (an extension module can raise anything: then it is not there)
        return None
    return bridge if works else None


def prepare_image(image_rgb: NDArray[np.uint8], spec: CameraSpec) -> NDArray[np.uint8]:
    """Rotate, crop and resize a driver's image into (spec.height, spec.width, 3) uint8.

    Where nothing has to change, the same array comes back. Raises ImageError (``wrong_size``) when
    the array is not (H, W, 3) uint8.
    """
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or 0 in image_rgb.shape:
        raise ImageError(
            "wrong_size",
            f"camera {spec.name!r}: image has shape {image_rgb.shape} and dtype "
            f"{image_rgb.dtype}; expected (H, W, 3) uint8",
        )
    image = _turned_and_cropped(image_rgb, spec)
    if image.shape[:2] == (spec.height, spec.width):
        return image
    shrinks = spec.height * spec.width < image.shape[0] * image.shape[1]
    resized = cv2.resize(
        np.ascontiguousarray(image),
        (spec.width, spec.height),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,  # area: no aliasing when shrinking
    )
    return np.asarray(resized, np.uint8)


def enlarged(image_rgb: NDArray[np.uint8], spec: CameraSpec) -> str:
    """How preparing the image would enlarge it, as "128×128 to 224×224" (width × height); empty if it does not."""
    height, width = _turned_and_cropped(image_rgb, spec).shape[:2]
    if height >= spec.height and width >= spec.width:
        return ""
    return f"{width}×{height} to {spec.width}×{spec.height}"


def _turned_and_cropped(image_rgb: NDArray[np.uint8], spec: CameraSpec) -> NDArray[np.uint8]:
    image = np.rot90(image_rgb, k=-spec.rotate_deg // 90) if spec.rotate_deg else image_rgb  # k > 0 is anticlockwise
    height, width = image.shape[:2]
    if spec.crop == "center_square" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    return image
