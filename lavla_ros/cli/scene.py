"""``lavla scene show``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import CommandError, to_json
from lavla_ros.defaults import DEFAULT_CONTRACT

if TYPE_CHECKING:
    from lavla_ros.contract import Contract
    from lavla_ros.typing import FloatArray


def show(
    scene: tyro.conf.Positional[str],
    data: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    contract: str = DEFAULT_CONTRACT,
    out: Path = Path("scene.png"),
    joints: tuple[float, ...] = (),
    as_json: Json = False,
) -> None:
    """Look at the picture: every link, the tool and what stands around must lie inside of the shapes that are drawn.

    Datasets and bags show how near their motion came, and which of their states the executor would have braked before.

    Example: lavla scene show tabletop runs/dataset --out scene.png

    Args:
        scene: A scene in config/scenes, or a YAML file.
        data: Datasets, or bags with joint states of the contract.
        contract: Contract whose robot is drawn: a shipped name or a YAML file.
        out: The picture: .png, .svg or .pdf.
        joints: Joint positions that are drawn, rad; the default is where the arm starts.
        as_json: Print JSON.
    """
    import numpy as np

    from lavla_ros.contract import load_contract
    from lavla_ros.control.arms import arm_of
    from lavla_ros.control.clearance import clearance_of
    from lavla_ros.control.scene import SINGULAR, load_scene
    from lavla_ros.control.scene_picture import FORMATS, draw_scene, nearest
    from lavla_ros.outputs import new_file

    kind = out.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise CommandError(f"out is {str(out)!r}; expected a name that ends with one of {list(FORMATS)}")
    loaded = load_contract(contract)
    arm = arm_of(loaded)
    clearance = clearance_of(arm, scene)
    at = joints or arm.start_rad
    if len(at) != len(arm.joint_names):
        raise CommandError(f"joints has {len(at)} values; the arm of {contract!r} has {list(arm.joint_names)}")
    found = [(path, states_NJ) for path in data for states_NJ in [_states(path, loaded, arm.joint_names)]]
    states_NJ = np.vstack([states for _, states in found]) if found else np.array([at])
    report = nearest(clearance, states_NJ)
    with new_file(out) as file:
        draw_scene(file, kind, arm, load_scene(scene), at, states_NJ if found else None)
    if as_json:
        print(to_json({"states": len(states_NJ), "pairs": [asdict(pair) for pair in report]}))
        return
    what = f"{len(states_NJ)} states of {', '.join(str(path) for path, _ in found)}" if found else "the pose drawn"
    print(f"{len(report)} pairs are watched. Least room above the margin in {what}:")
    for pair in report[:10]:
        braked = f"; {pair.below} states would have been braked before" if pair.below else ""
        room = f"{pair.slack_m:.3f}" if pair.second == SINGULAR else f"{1e3 * pair.slack_m:.0f} mm"
        print(f"  {pair.first} – {pair.second}: {room} (state {pair.state}){braked}")
    print(f"picture: {out}")


def _states(path: Path, contract: Contract, names: tuple[str, ...]) -> FloatArray:
    """(N, J) recorded joint positions of a dataset or a bag, rad. Raises CommandError if it has none."""
    import numpy as np

    from training.dataset import EpisodeDataset, layout

    if (path / layout.INFO).exists():
        states = EpisodeDataset(path, contract).states
        return states[:, [contract.state.names.index(name) for name in names]].astype(np.float64)
    rows = list(_recorded(path, contract, names))
    if not rows:
        topics = ", ".join(dict.fromkeys(piece.topic for piece in contract.state.sources))
        raise CommandError(f"{path} has no {topics} with the joints {list(names)}")
    return np.array(rows)


def _recorded(path: Path, contract: Contract, names: tuple[str, ...]) -> Iterator[list[float]]:
    from lavla_ros.pieces import Decoder
    from lavla_ros.recording import BagReader

    with BagReader(path) as bag:
        pieces = [piece for each in contract.state.sources if (piece := each.only(names)) is not None]
        decoder = Decoder(pieces, contract.state.units, lambda *_: None, lambda _: None)
        at: dict[str, float] = {}
        for message in bag.messages(decoder.topics):
            for number, values in decoder.read(message.topic, bag.deserialize(message)):
                at |= dict(zip(pieces[number].names, map(float, values), strict=True))
            if set(names) <= set(at):
                yield [at[name] for name in names]
