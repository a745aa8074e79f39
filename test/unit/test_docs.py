"""What the pages tell a reader to type is taken by the code: every command, option, stack argument, import and link."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lavla_ros import cli, topics
from lavla_ros.bringup.stack import load_stack
from lavla_ros.config import from_plain
from lavla_ros.contract import Contract
from lavla_ros.yaml_text import load_yaml
from sim_bridges.jaka_controller import emulator
from sim_bridges.paper.grid import Study, cells_of
from training import train
from training.ingest.lerobot import LeRobotMapping
from training.latent_actions import action_train, image_train

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OURS = ("lavla", "make", "ros2", "python")
OTHERS = {"pip", "apt-get", "git", "cd", "colcon", "source", "export", "ray", "ln", "accelerate"}
OTHERS |= {"for", "do", "done", "sudo", "tensorboard"}
"""Programs of others, whose options are not ours to check."""
TRAIN = {
    "train": [(train, "train")],
    "latent train": [(action_train, "train_action_lam"), (image_train, "train_image_lam")],
}
"""Commands that train, and what is not to be done of them."""
MORE_THAN_ONE = "…"
"""Stands for what the reader fills in; a command with it is a fragment."""


def fenced(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in FENCED.finditer(page.read_text(encoding="utf-8")):
            if match[1] == language:
                yield page.name, match[2]


def commands() -> Iterator[Any]:
    """One pytest parameter for each command line of ours, in blocks, tables and sentences."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [match[2] for match in FENCED.finditer(text) if match[1] == "sh"]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        sentences = [" ".join(span.split()).replace("\\|", "|") for span in INLINE.findall(FENCED.sub("", text))]
        lines += [span for span in sentences if span.split(" ")[0] in OURS and " " in span]
        for line in lines:
            for words in parts(shlex.split(re.sub(r"\$\w+", "0", line), comments=True)):
                if words[0] not in OTHERS and "=" not in words[0]:
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}")


def parts(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, between ``&&`` and the like."""
    while words:
        end = next((i for i, word in enumerate(words) if word in ("&&", ";", "|")), len(words))
        if words[:end]:
            yield words[:end]
        words = words[end + 1 :]


def check_lavla(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0].isupper():
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS or words[0] == "latent" else words[0]
    rest = words[len(name.split()) :]
    if name not in ("latent", "--version"):
        assert name in cli.COMMANDS
    if rest[:1] == ["--help"] or (len(rest) <= 1 and not any("/" in word or ":" in word for word in rest)):
        return  # what a sentence names
    if name == "up":
        load_stack(rest[0], dict(word.split(":=", 1) for word in rest[1:]), run_dir=tmp_path)
        return
    call = cli.parse([*name.split(), *(word.split("|")[0] for word in rest)])
    for module, run in TRAIN.get(name, []):
        monkeypatch.setattr(module, run, lambda config: tmp_path)
    if name == "emulator":
        monkeypatch.setattr(emulator, "run_emulator", lambda *_: 0)
    if name in TRAIN or name == "emulator":  # these read their options as they begin
        with pytest.raises(SystemExit, match=r"^0$") if name == "emulator" else nullcontext():
            call()
    if "--stack" in rest:
        given = rest[rest.index("--stack") + 1 :]
        load_stack("record_demos", dict(word.split(":=", 1) for word in given), run_dir=tmp_path)


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        return
    module, *rest = words[1:]
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"there is no module {module}"
    if ".nodes." in module:
        (node,) = (
            value
            for value in vars(importlib.import_module(module)).values()
            if isinstance(value, type) and value.__module__ == module and hasattr(value, "parameters_type")
        )
        known = node.parameters_type.__dataclass_fields__
        given = [word.split(":=")[0] for word in rest if ":=" in word]
        assert set(given) <= set(known) | {"use_sim_time"}, set(given) - set(known)
        return
    source = Path(spec.origin).read_text(encoding="utf-8")
    for option in (word for word in rest if word.startswith("--")):
        assert option in source or re.search(rf"\b{option[2:].replace('-', '_')}\b", source), (
            f"{module} has no {option}"
        )


def check_ros2(words: list[str], tmp_path: Path) -> None:
    if words[0] == "launch":
        stack = words[2].removesuffix(".launch.py")
        assert (ROOT / "launch" / words[2]).is_file()
        load_stack(stack, dict(word.split(":=", 1) for word in words[3:] if ":=" in word), run_dir=tmp_path)
    elif words[:2] in (["service", "call"], ["param", "set"]):
        name = words[2] if words[0] == "service" else words[3]
        sources = [*ROOT.glob("lavla_ros/*/*.py"), *ROOT.glob("sim_bridges/**/*node*.py")]
        assert any(name.split("/")[-1] in file.read_text(encoding="utf-8") for file in sources), f"nobody serves {name}"


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_is_one_that_the_code_takes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words[0] in OURS, f"{words[0]!r} is neither ours nor a known program of others"
    if any(MORE_THAN_ONE in word for word in words):
        words = words[: next(i for i, word in enumerate(words) if MORE_THAN_ONE in word)]
        assert words[0] != "lavla" or any(name.split(" ")[0] == words[1] for name in cli.COMMANDS)
        return
    monkeypatch.chdir(ROOT)
    if words[0] == "lavla" and len(words) > 1:
        check_lavla(words[1:], tmp_path, monkeypatch)
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
    elif words[0] == "python":
        check_python(words[1:])
    elif words[0] == "ros2":
        check_ros2(words[1:], tmp_path)


def test_shell_blocks_are_shell() -> None:
    for page, block in fenced("sh"):
        done = subprocess.run(["bash", "-n"], input=block.replace("<", "'<").replace(">", ">'"), text=True, check=False)
        assert done.returncode == 0, f"{page}: {block}"


@pytest.mark.parametrize(("page", "block"), list(fenced("python")))
def test_python_blocks_import_what_there_is(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {ast.unparse(node)}"


@pytest.mark.parametrize(("page", "block"), list(fenced("yaml")))
def test_yaml_blocks_are_read(page: str, block: str) -> None:
    data = load_yaml(block)
    if set(data) >= {"cameras", "state", "action"}:
        from_plain(Contract if "robot" in data else LeRobotMapping, data, source=page)
    if set(data) >= {"tasks", "grids"}:
        assert cells_of(from_plain(Study, data, source=page))


def test_the_page_of_topics_says_what_the_code_says() -> None:
    said = (ROOT / "docs/reference/topics.md").read_text(encoding="utf-8")
    assert said == topics.page(), "stale; run: python -m lavla_ros.topics > docs/reference/topics.md"
    assert all(f"`{name}`" in said for name in (topics.ACTION_CHUNK, topics.EPISODE_STOP, topics.EXECUTOR_RESUME))


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text(encoding="utf-8"))
        new |= {(page.parent / link).resolve() for link in links if "://" not in link} - reached
    assert {page.name for page in PAGES} <= {page.name for page in reached}


def test_tests_that_a_page_names_are_there() -> None:
    defined = {
        name for file in (ROOT / "test").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert named <= defined
