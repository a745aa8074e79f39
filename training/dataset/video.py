"""Video files: encode prepared frames, decode them by number or in order.

H.264 (libx264 ``veryfast``, crf 23) by default: at 224×224 it encodes about twice as fast as
SVT-AV1 at the same size, starts without delay for short episodes, and decodes everywhere. A key
frame every 2nd frame keeps random access at 1–2 ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from training.dataset.layout import DatasetError, frame_rate

Codec = Literal["libx264", "libsvtav1"]
CODEC_NAMES: dict[Codec, str] = {"libx264": "h264", "libsvtav1": "av1"}
"""Encoder → name of the format in info.json."""

_OPTIONS: dict[str, dict[str, str]] = {
    # One thread and no B frames: bytes do not depend on the machine's cores. No mbtree, which pictures of few blocks
    # make depend on what was in memory before; where every second frame is a key frame it saves 5 to 10% of the bytes.
    "libx264": {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": "23",
        "g": "2",
        "bf": "0",
        "threads": "1",
        "x264-params": "mbtree=0",
    },
    "libsvtav1": {"preset": "12", "crf": "30", "g": "2", "svtav1-params": "lp=1"},
}

_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError)


class VideoWriter:
    """Encode (H, W, 3) RGB frames at ``fps``. A context manager; leaving it with an error removes the file."""

    def __init__(self, path: Path, *, width: int, height: int, fps: float, codec: Codec = "libx264") -> None:
        """Raises DatasetError for odd sizes (yuv420p halves them) and for codecs that PyAV lacks."""
        if width % 2 or height % 2:
            raise DatasetError(f"video size {width}x{height} is odd; yuv420p needs even sides: change the contract")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.frames = 0
        self._container: Any = av.open(str(path), "w", format="mp4")
        try:
            self._stream = self._container.add_stream(codec, rate=frame_rate(fps), options=_OPTIONS[codec])
        except (KeyError, *_ERRORS) as error:
            raise DatasetError(f"this PyAV cannot encode {codec!r}: {error}; use one of {sorted(_OPTIONS)}") from None
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._frame_time = 1 / frame_rate(fps)

    def write(self, image_rgb: NDArray[np.uint8]) -> None:
        """Append one frame."""
        frame = av.VideoFrame.from_ndarray(image_rgb, format="rgb24")
        frame.pts = self.frames
        frame.time_base = self._frame_time  # the stream's own base changes when the header is written
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if error is not None:
            self.path.unlink(missing_ok=True)


class DepthWriter:
    """Encode (H, W) uint16 frames without loss (FFV1). A context manager; leaving it with an error removes the file."""

    def __init__(self, path: Path, *, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._shape: tuple[int, ...] = ()
        self._frames = 0
        self._container: Any = av.open(str(path), "w", format="matroska")
        self._stream = self._container.add_stream("ffv1", rate=frame_rate(fps), options={"level": "3", "threads": "1"})
        self._frame_time = 1 / frame_rate(fps)

    def write(self, depth: NDArray[np.uint16]) -> None:
        """Append one frame. Raises ValueError for one of another size than the first."""
        if not self._shape:
            self._shape = depth.shape
            self._stream.height, self._stream.width = depth.shape
            self._stream.pix_fmt = "gray16le"
        elif depth.shape != self._shape:
            raise ValueError(f"frame {self._frames} is {depth.shape[1]}x{depth.shape[0]}, the first was another size")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(depth), format="gray16le")
        frame.pts, frame.time_base = self._frames, self._frame_time
        self._container.mux(self._stream.encode(frame))
        self._frames += 1

    def __enter__(self) -> DepthWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._frames:
            self._container.mux(self._stream.encode())
        self._container.close()
        if error is not None:
            self.path.unlink(missing_ok=True)


def depth_frames(path: Path) -> Iterator[NDArray[np.uint16]]:
    """Every (H, W) frame of a depth file, millimetres, in order. Raises DatasetError for a damaged one."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="gray16le"), np.uint16)
    except _ERRORS as error:
        raise DatasetError(f"cannot read depth {path}: {error}") from None


class VideoReader:
    """Frames of one file by number. Reading forward needs no seek. Not thread-safe.

    One demuxer is kept across seeks and read to its end before it is given up: PyAV 18 never frees all of one that
    is left early (240 bytes each, which random access makes gigabytes of in a long training).
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Raises DatasetError when the file is missing or damaged."""
        self.path = path
        try:
            self._container: Any = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except _ERRORS as error:
            raise DatasetError(f"cannot open video {path}: {error}") from None
        self._stream.codec_context.thread_count = 1  # parallelism is over files
        self._rate = frame_rate(fps)
        self._packets: Iterator[Any] | None = None
        self._decoded: deque[Any] = deque()
        """Frames that came out of the decoder together with the one that was wanted."""
        self._next: int | None = None
        """Number of the frame that comes next without a seek; None: unknown."""

    def close(self) -> None:
        with suppress(*_ERRORS):
            if self._packets is not None:
                self._seek(1 << 40)
                for _ in self._packets:
                    pass
        self._container.close()

    def frames(self, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
        """``count`` frames from number ``first`` as (H, W, 3) RGB. Raises DatasetError when there are fewer."""
        for number in range(first, first + count):
            yield self.frame(number)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """Frame ``number`` (its presentation time is number / fps)."""
        try:
            if self._next is None or not self._next <= number <= self._next + 2:
                self._seek(number)
            for frame in self._following():
                found = round(frame.pts * frame.time_base * self._rate)
                self._next = found + 1
                if found == number:
                    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                if found > number:
                    break
        except _ERRORS as error:
            self._next = None
            raise DatasetError(f"video {self.path} is damaged at frame {number}: {error}") from None
        self._next = None
        raise DatasetError(f"video {self.path} has no frame {number} at {float(self._rate):g} fps")

    def _seek(self, number: int) -> None:
        """Go to the last key frame at or before ``number``."""
        self._container.seek(int(number / self._rate / self._stream.time_base), stream=self._stream)
        self._decoded.clear()

    def _following(self) -> Iterator[Any]:
        """Decoded frames from where the demuxer is, to the end."""
        while True:
            while self._decoded:
                yield self._decoded.popleft()
            if self._packets is None:
                self._packets = self._container.demux(self._stream)
            packet = next(self._packets, None)
            if packet is None:
                self._packets = None
                return
            self._decoded.extend(packet.decode())


def codec_of(path: Path) -> str:
    """Name of a file's format, as info.json has it. Raises DatasetError on damage."""
    try:
        with av.open(str(path)) as container:
            return str(container.streams.video[0].codec_context.name).removeprefix("lib").replace("dav1d", "av1")
    except _ERRORS as error:
        raise DatasetError(f"cannot read video {path}: {error}") from None


def scan(path: Path, fps: float) -> Iterator[Any]:
    """All frames of a file in order (PyAV's own), checked while they are decoded.

    Raises DatasetError if the bytes are damaged (as far as decoding shows it: half of all single flipped bits
    decode without complaint), and where frame i is not the one of i / fps.
    """
    number, rate = 0, frame_rate(fps)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # parallelism is over files
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DatasetError(f"video {path} is damaged at frame {number}")
                if frame.pts is None or round(frame.pts * frame.time_base * rate) != number:
                    raise DatasetError(f"video {path}: frame {number} is not the one of {number}/{fps} s")
                yield frame
                number += 1
    except _ERRORS as error:
        raise DatasetError(f"video {path} is damaged at frame {number}: {error}") from None


def probe(path: Path) -> tuple[int, int, int]:
    """(frames, width, height), by counting packets without decoding. Raises DatasetError on damage."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for packet in container.demux(stream) if packet.size)
            return frames, int(stream.width), int(stream.height)
    except _ERRORS as error:
        raise DatasetError(f"cannot read video {path}: {error}") from None
