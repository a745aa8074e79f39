"""A Rerun recording (.rrd) of an episode. Needs ``pip install lavla_ros[view]``; opened with ``rerun FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.errors import UserError
from lavla_ros.outputs import new_file
from lavla_ros.typing import NS_PER_S
from training.view.episode import SentChunk, ShownEpisode, ViewError

_TIMELINE = "time"


class RerunMissingError(UserError, ImportError):
    """Rerun is not installed."""


def write_rerun(episode: ShownEpisode, out: Path) -> int:
    """Write the recording ``out``; returns its steps. Raises RerunMissingError, ViewError.

    ``camera/NAME``: pictures; ``joint/NAME/measured`` and ``…/commanded``: in the contract's units, the latter at
    the time for which it is; ``joint/NAME/planned/N``: the chunks, a line each, at the times of their actions;
    ``person``: 1 where a person commanded.
    """
    try:
        import rerun as rr
    except ImportError:
        raise RerunMissingError("Rerun is not installed: pip install lavla_ros[view]") from None
    contract = episode.contract
    steps, begin_ns, said = 0, 0, ""
    with new_file(out) as file:
        stream = rr.RecordingStream("lavla_ros", recording_id=None)
        stream.save(str(file))
        for moment in episode.moments:
            begin_ns = begin_ns if steps else moment.stamp_ns
            at_s = (moment.stamp_ns - begin_ns) / NS_PER_S
            stream.set_time(_TIMELINE, duration=at_s)
            if moment.instruction != said:
                said = moment.instruction
                stream.log("instruction", rr.TextLog(said))
            for name, image in moment.images.items():
                stream.log(f"camera/{name}", rr.Image(image).compress(jpeg_quality=90))
            for name, value in zip(contract.state.names, moment.state, strict=True):
                stream.log(f"joint/{name}/measured", rr.Scalars(float(value)))
            stream.log("person", rr.Scalars(float(moment.person)))
            stream.set_time(_TIMELINE, duration=at_s + contract.dt_s)
            for name, value in zip(contract.action.names, moment.action, strict=True):
                stream.log(f"joint/{name}/commanded", rr.Scalars(float(value)))
            steps += 1
        if not steps:
            raise ViewError(f"{episode.name} has no steps")
        for number, chunk in enumerate(episode.chunks):
            _fan(rr, stream, contract.action.names, chunk, number, begin_ns)
        stream.flush()
        stream.disconnect()
    return steps


def _fan(rr: Any, stream: Any, names: tuple[str, ...], chunk: SentChunk, number: int, begin_ns: int) -> None:
    due = (chunk.due_ns - begin_ns).astype("timedelta64[ns]")
    for name, values in zip(names, np.ascontiguousarray(chunk.actions_HA.T), strict=True):
        stream.send_columns(
            f"joint/{name}/planned/{number:05}",
            indexes=[rr.TimeColumn(_TIMELINE, duration=due)],
            columns=rr.Scalars.columns(scalars=values),
        )
