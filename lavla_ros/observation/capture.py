"""Cameras without a ROS driver: V4L2 devices, RTSP streams and video files through OpenCV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError

BLANK = "blank"
OnFrame = Callable[[NDArray[np.uint8], int], None]
"""Receives (H, W, 3) RGB and the capture stamp in nanoseconds, in the capture thread."""


class CaptureError(UserError, OSError):
    """A video source cannot be opened."""


class _Blank:
    """A grey picture at 10 Hz, as OpenCV would read it."""

    def get(self, key: int) -> float:
        return 10.0 if key == cv2.CAP_PROP_FPS else 0.0

    def set(self, key: int, value: float) -> None:
        """There is nothing to set."""

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        return True, np.full((480, 640, 3), 128, np.uint8)

    def release(self) -> None:
        """There is nothing to release."""


class Capture:
    """Read one source in a thread of its own; devices and streams are reopened when they fail.

    ``source``: ``/dev/video0`` or a number (V4L2), ``rtsp://…``, or a video file, which is played
    at its own rate and, with ``loop``, again and again; ``blank``: a grey picture, if there is no camera.
    """

    def __init__(self, source: str, on_frame: OnFrame, *, loop: bool = False, reopen_s: float = 1.0) -> None:
        self.source = source
        self.ended = False
        self.failure: BaseException | None = None
        self._on_frame = on_frame
        self._loop = loop
        self._reopen_s = reopen_s
        self._stop = threading.Event()
        self._is_file = "://" not in source and not source.startswith("/dev/") and not source.isdigit()
        self._video = self._open()
        self._thread = threading.Thread(target=self._run, name=f"capture {source}", daemon=True)

    def start(self) -> None:
        """Begin to deliver frames; a second call changes nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread and release the source."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._video.release()

    def _open(self) -> Any:
        if self.source == BLANK:
            return _Blank()
        if self._is_file and not Path(self.source).is_file():
            raise CaptureError(f"video file {self.source} does not exist")
        device = self.source.removeprefix("/dev/video")
        if self.source.startswith("/dev/") and not Path(self.source).exists():
            raise CaptureError(f"camera {self.source} does not exist; list the connected ones with `ls /dev/video*`")
        video = cv2.VideoCapture(int(device)) if device.isdigit() else cv2.VideoCapture(self.source)
        if not video.isOpened():
            video.release()
            raise CaptureError(f"cannot open video source {self.source!r}; is it connected, and not used elsewhere?")
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not a queue of old ones
        return video

    def _run(self) -> None:
        period_s = 1.0 / (self._video.get(cv2.CAP_PROP_FPS) or 30.0) if self._is_file else 0.0
        due_s = time.monotonic()
        try:
            while not self._stop.is_set():
                grabbed = self._video.grab()
                stamp_ns = time.time_ns()  # as near to the exposure as OpenCV allows
                ok, bgr = self._video.retrieve() if grabbed else (False, None)
                if ok and bgr is not None:
                    self._on_frame(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), stamp_ns)
                elif not self._recover():
                    return
                if self._is_file:
                    due_s += period_s
                    self._stop.wait(max(0.0, due_s - time.monotonic()))
        except (cv2.error, RuntimeError, ValueError, OSError) as error:
            self.failure = error  # shown by the node; the camera is then missing

    def _recover(self) -> bool:
        """After a failed read: rewind a looping file, reopen a device; False at a file's end."""
        if self._is_file:
            if self._loop and self._video.get(cv2.CAP_PROP_POS_FRAMES) > 0:
                self._video.set(cv2.CAP_PROP_POS_FRAMES, 0)
                return True
            self.ended = True
            return False
        self._video.release()
        while not self._stop.wait(self._reopen_s):
            try:
                self._video = self._open()
            except CaptureError:
                continue  # missing is reported by the node's health check until it is back
            return True
        return False
