"""What a person sees of a cell before the arm moves in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from synthetic_bags import joints_cdr

from lavla_ros import cli
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.recording import EpisodeRecorder

DOWN = np.array([[1, 0, 0, -0.3], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], float)


def over_table(fingertips_m):
    """Joint positions with the fingertips at a height above the tabletop's table."""
    target = DOWN.copy()
    target[2, 3] = -0.10 + fingertips_m + 0.152
    return MINICOBO.kinematics.inverse(target, np.array(MINICOBO.start_rad), MINICOBO.limits)


def test_recorded_motion_is_held_against_a_scene(tmp_path, capsys):
    """Three states of a bag: two are clear, one has its fingers 3 mm in the table, 1 mm more than the pads give."""
    recorder = EpisodeRecorder(tmp_path / "bags", {"/joint_states": "sensor_msgs/msg/JointState"})
    bag = recorder.start({}, stamp_ns=10**18)
    for i, height in enumerate((0.10, -0.003, 0.05)):
        at = dict(zip(MINICOBO.joint_names, over_table(height), strict=True)) | {"gripper": 1.0}
        recorder.write("/joint_states", joints_cdr(10**18 + i * 10**8, at), 10**18 + i * 10**8)
    recorder.stop("succeeded")
    picture = tmp_path / "cell.png"
    cli.main(["scene", "show", "tabletop", str(bag), "--out", str(picture), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["states"] == 3
    worst = report["pairs"][0]
    assert {worst["first"], worst["second"]} in ({"left finger", "table"}, {"right finger", "table"})
    assert worst["slack_m"] == pytest.approx(-0.001, abs=1e-4) and worst["state"] == 1 and worst["below"] == 1

    cli.main(["scene", "show", "tabletop", str(bag), "--out", str(picture)])
    assert "1 states would have been braked before" in capsys.readouterr().out
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    assert drawn.std() > 10, "shapes, not an empty page"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no_such_cell"], "tabletop"),
        (["tabletop", "--joints", "0.1", "0.2"], "joints has 2 values"),
        (["tabletop", "--contract", "libero"], "robot"),
        (["tabletop", "--out", "cell.bmp"], "png"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(words, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as ending:
        cli.main(["scene", "show", "--out", str(tmp_path / "cell.png"), *words])
    assert ending.value.code not in (0, None)
    assert says in capsys.readouterr().err + str(ending.value)
