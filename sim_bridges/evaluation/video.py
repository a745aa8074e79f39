"""Episode videos: all cameras side by side; the long kind with the joint commands plotted below."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Observation

PANEL = 336
"""Side of one camera panel, pixels."""
PLOT_HEIGHT = 240
CLIP_PANEL = 224
CLIP_FPS = 5
FEW_OBSERVATIONS = 12
"""This many observations or fewer are shown for half a second each: chunks were executed whole."""


def write_episode_video(
    path: Path,
    frames: Mapping[str, Sequence[NDArray[np.uint8]]],
    frame_times_s: Sequence[float],
    command_times_s: NDArray[np.float64],
    commands_TA: NDArray[np.float64],
    names: Sequence[str],
    *,
    fps: int,
    caption: str = "",
) -> None:
    """Write one H.264 file.

    ``frames[camera][i]`` (H, W, 3 RGB) was captured at ``frame_times_s[i]``; ``commands_TA[k]`` was in force from
    ``command_times_s[k]`` on, both in seconds from the start of the episode. Raises ValueError when there is no
    frame, or cameras differ in length.
    """
    lengths = {camera: len(images) for camera, images in frames.items()}
    if not lengths or set(lengths.values()) != {len(frame_times_s)} or len(frame_times_s) == 0:
        raise ValueError(f"cannot make {path.name}: frames per camera {lengths}, times {len(frame_times_s)}")
    width = PANEL * len(frames)
    end_s = max(frame_times_s[-1], float(command_times_s[-1]) if len(command_times_s) else 0.0, 0.1)
    plot, left, right = _plot_commands(command_times_s, commands_TA, names, width, end_s)

    def picture(i: int, time_s: float) -> NDArray[np.uint8]:
        panels = [_panel(images[i], camera) for camera, images in frames.items()]
        panels[0] = _text(panels[0], f"{caption}  {time_s:4.1f} s", (8, PANEL - 10))
        strip = plot.copy()
        x = left + round((right - left) * time_s / end_s)
        strip[:, max(0, x - 1) : x + 1] = (220, 60, 40)
        return np.concatenate([np.concatenate(panels, axis=1), strip], axis=0)

    _encode(
        path, itertools.starmap(picture, enumerate(frame_times_s)), size=(width, PANEL + PLOT_HEIGHT), fps=fps, crf=23
    )


def write_clip(path: Path, observations: Sequence[Observation], *, caption: str = "") -> None:
    """A short H.264 file of what a policy saw: all cameras side by side, ``CLIP_FPS`` observations a second.

    Stamps are shown as seconds since the first. Raises ValueError without observations or without images, OSError
    where the file cannot be written.
    """
    if not observations or not observations[0].images:
        raise ValueError(f"cannot make {path.name}: there are no images")
    cameras = list(observations[0].images)
    begin_ns = observations[0].stamp_ns

    def picture(observation: Observation) -> NDArray[np.uint8]:
        panels = [_panel(observation.images[camera], camera, CLIP_PANEL) for camera in cameras]
        elapsed_s = (observation.stamp_ns - begin_ns) * 1e-9
        panels[0] = _text(panels[0], f"{elapsed_s:4.1f} s  {caption}", (8, CLIP_PANEL - 10))
        return np.concatenate(panels, axis=1)

    fps = 2 if len(observations) <= FEW_OBSERVATIONS else CLIP_FPS
    _encode(path, map(picture, observations), size=(CLIP_PANEL * len(cameras), CLIP_PANEL), fps=fps, crf=28)


def _encode(path: Path, pictures: Iterable[NDArray[np.uint8]], *, size: tuple[int, int], fps: int, crf: int) -> None:
    """Pictures (H, W, 3) RGB of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _panel(image: NDArray[np.uint8], label: str, side: int = PANEL) -> NDArray[np.uint8]:
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    return _text(np.asarray(resized, np.uint8), label, (8, 22))


def _text(image: NDArray[np.uint8], text: str, origin: tuple[int, int]) -> NDArray[np.uint8]:
    """White on a darkened band, readable on any picture."""
    canvas = np.ascontiguousarray(image)
    top, bottom = max(0, origin[1] - 17), min(canvas.shape[0], origin[1] + 8)
    canvas[top:bottom] = canvas[top:bottom] // 2
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def _plot_commands(
    times_s: NDArray[np.float64], commands_TA: NDArray[np.float64], names: Sequence[str], width: int, end_s: float
) -> tuple[NDArray[np.uint8], int, int]:
    """The plot as a picture, and the pixel columns of time 0 and ``end_s``."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = 100
    figure = Figure(figsize=(width / dpi, PLOT_HEIGHT / dpi), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.095, 0.19, 0.76, 0.75))
    axes.set_prop_cycle(color=colormaps["tab20" if len(names) > 10 else "tab10"].colors)  # type: ignore[attr-defined]
    greys = iter(("black", "grey"))
    for column, name in enumerate(names):
        (line,) = axes.plot(times_s, commands_TA[:, column], label=name, linewidth=1.2)
        if "gripper" in name:
            line.set(linestyle="--", color=next(greys, "black"))
    axes.set_xlim(0, end_s)
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_ylabel("command (rad)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, labelspacing=0.1, frameon=False)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    box = axes.get_window_extent()
    return picture, round(box.x0), round(box.x1)
