"""The table of bad input: what a user can get wrong, and the words that must tell them so.

Each row prepares something broken and runs the ``lavla`` command on it. It must end with a non-zero status, one
message that names the cause (and the fix, where there is one), and no output that looks like success.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lavla_ros import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "ros"))

from random_policy import write_random_checkpoint


@dataclass(frozen=True)
class Row:
    """``arrange(folder)`` returns the command's arguments; every one of ``says`` must be in the message."""

    arrange: Callable[[Path], list[str]]
    says: tuple[str, ...]


def _evaluate(policy: Path | str, *more: str) -> list[str]:
    return ["eval", "tabletop", "--policy", str(policy), "--episodes", "1", *more]


def _broken_checkpoint(folder: Path, change: Callable[[Path], object]) -> list[str]:
    checkpoint = folder / "checkpoint"
    write_random_checkpoint(checkpoint)
    change(checkpoint)
    return _evaluate(checkpoint)


def _truncate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _other_contract(checkpoint: Path) -> None:
    file = checkpoint / "contract.yaml"
    contract = yaml.safe_load(file.read_text())
    contract["rate_hz"] = 20.0
    file.write_text(yaml.safe_dump(contract))


def _run_folder(run: Path) -> list[str]:
    write_random_checkpoint(run / "best")
    return _evaluate(run)


def _train_on_backbone(folder: Path, description: str) -> list[str]:
    """Told before anything is read of a dataset, which is not even there."""
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(yaml.safe_load(description)))
    backbone = ["--policy.backbone.kind", "pretrained", "--policy.backbone.path", str(folder / "base")]
    return ["train", "--data.dataset", str(folder / "gone"), "--output", str(folder / "run"), *backbone]


def _incomplete_stats(checkpoint: Path) -> None:
    stats = json.loads((checkpoint / "stats.json").read_text())
    del stats["state"]
    (checkpoint / "stats.json").write_text(json.dumps(stats))


def _foreign_bag(folder: Path) -> list[str]:
    (folder / "bag").mkdir()
    (folder / "bag" / "bag.mcap").write_bytes(b"not an mcap file at all")
    return ["convert", str(folder / "bag"), "--out", str(folder / "dataset")]


def _full_results(folder: Path) -> list[str]:
    (folder / "results.json").write_text("{}")
    return _evaluate("expert", "--out", str(folder))


def _recorded_before(folder: Path) -> list[str]:
    (folder / "worker_0" / "episode_000000").mkdir(parents=True)
    return ["record", "--out", str(folder), "--episodes", "1"]


def _contract_file(folder: Path, change: Callable[[dict[str, object]], object]) -> list[str]:
    shipped = Path(__file__).parents[2] / "config" / "contracts" / "jaka_minicobo.yaml"
    contract = yaml.safe_load(shipped.read_text())
    change(contract)
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    return _evaluate("expert", "--contract", str(folder / "contract.yaml"))


TABLE = {
    "no such checkpoint": Row(lambda f: _evaluate(f / "nothing"), ("nothing", "not a directory")),
    "weights cut off": Row(
        lambda f: _broken_checkpoint(f, lambda c: _truncate(c / "model.safetensors")), ("model.safetensors",)
    ),
    "weights missing": Row(
        lambda f: _broken_checkpoint(f, lambda c: (c / "model.safetensors").unlink()), ("lacks", "model.safetensors")
    ),
    "tokenizer missing": Row(
        lambda f: _broken_checkpoint(f, lambda c: shutil.rmtree(c / "tokenizer")), ("lacks", "tokenizer")
    ),
    "statistics incomplete": Row(
        lambda f: _broken_checkpoint(f, _incomplete_stats), ("statistics of state.joint_1 lack",)
    ),
    "contract beside the weights replaced": Row(
        lambda f: _broken_checkpoint(f, _other_contract), ("model.safetensors", "contract.yaml", "replaced")
    ),
    "checkpoint of another contract": Row(
        lambda f: [*_contract_file(f, lambda c: c.update(rate_hz=20.0)), "--policy", "bundled"],
        ("contract", "rate_hz", "20.0 != 10.0"),
    ),
    "the folder of the run for its best policy": Row(
        lambda f: _run_folder(f / "run"), ("lacks config.yaml", "did you mean", "run/best?")
    ),
    "a GPU that is not there": Row(lambda f: _evaluate("bundled", "--device", "cuda:77"), ("device is 'cuda:77'",)),
    "a device that torch does not know": Row(
        lambda f: _evaluate("bundled", "--device", "gpu"), ("device is 'gpu'", "cuda")
    ),
    "training from a backbone that is none": Row(
        lambda f: _train_on_backbone(f, "model_type: llama"), ("backbone.path", "base", "llama")
    ),
    "results exist": Row(_full_results, ("results.json exists", "--out")),
    "no episodes": Row(lambda f: ["eval", "tabletop", "--policy", "expert", "--episodes", "0"], ("episodes is 0",)),
    "unknown contract": Row(
        lambda f: _evaluate("expert", "--contract", "jaka_nothing"), ("jaka_nothing", "jaka_minicobo")
    ),
    "contract with an unknown key": Row(
        lambda f: _contract_file(f, lambda c: c.update(colour="red")), ("colour", "contract.yaml")
    ),
    "contract with a wrong reference": Row(
        lambda f: _contract_file(f, lambda c: c["alignment"].update(reference="rear")), ("rear", "front")
    ),
    "no bags": Row(lambda f: ["convert", str(f), "--out", str(f / "d")], ("holds no",)),
    "no such bag": Row(lambda f: ["convert", str(f / "gone"), "--out", str(f / "d")], ("gone", "does not exist")),
    "foreign bag": Row(_foreign_bag, ("bag",)),
    "no dataset": Row(lambda f: ["dataset", "check", str(f)], ("info.json",)),
    "training without a dataset": Row(
        lambda f: ["train", "--data.dataset", str(f / "gone"), "--output", str(f / "run")], ("gone", "lavla convert")
    ),
    "training with a wrong value": Row(
        lambda f: ["train", "--batch-size", "0", "--output", str(f / "run")], ("batch_size", "0")
    ),
    "recording twice": Row(_recorded_before, ("holds recorded episodes",)),
    "seeds kept for evaluation": Row(
        lambda f: ["record", "--out", str(f / "b"), "--seed", "1000000", "--episodes", "1"], ("1000000", "evaluation")
    ),
    "unknown stack": Row(lambda f: ["up", "jaka_nothing"], ("jaka_nothing", "jaka_policy")),
    "unknown stack argument": Row(lambda f: ["up", "jaka_policy", "robot:=1.2.3.4"], ("robot", "robot_ip")),
    "real arm without an address": Row(lambda f: ["up", "jaka_policy", "simulate:=false"], ("robot_ip",)),
    "unknown model of an arm": Row(lambda f: ["emulator", "--model", "zu9", "--port", "0"], ("zu9", "zu7")),
    "not an argument": Row(lambda f: ["up", "jaka_policy", "--robot-ip"], ("robot-ip",)),
    "speed out of range": Row(lambda f: ["up", "jaka_policy", "speed_scale:=fast"], ("speed_scale", "fast")),
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = TABLE[name]
    arguments = row.arrange(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.main(arguments)
    said = capsys.readouterr()
    assert ending.value.code not in (0, None)
    assert "Traceback" not in said.err
    for words in row.says:
        assert words in said.err + said.out
    assert "succeeded" not in said.out


def test_port_in_use(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ending:
            cli.main(["emulator", "--port", str(port), "--status-port", "0"])
    assert ending.value.code == 1
    assert str(port) in caplog.text
    assert "choose another port" in caplog.text
