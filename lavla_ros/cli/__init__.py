"""The ``lavla`` command: every step from demonstrations to a working arm.

Each command is one function below; what it needs is imported when it runs, so ``lavla --help`` is quick
and a robot without the training packages still has its commands.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lavla_ros.config import read_plain
from lavla_ros.places import use_writable_places

app = tyro.extras.SubcommandApp()
latent = tyro.extras.SubcommandApp()
app.command(latent, name="latent", help="Latent action models: train them, label datasets, look at what codes mean.")


_DESCRIPTION = """Take a vision-language-action policy from demonstrations to a working arm.

Record demonstrations, convert the bags to a dataset, train a policy, evaluate it in simulation, run it over ROS 2."""


SuiteOptions = Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-o"]), tyro.conf.UseAppendAction]
"""Of a simulator's suite, name=value each."""


class CommandError(RuntimeError):
    """Something the user can mend; printed without a traceback, exit status 1."""


@app.command(name="eval")
def evaluate(
    suite: tyro.conf.Positional[str],
    /,
    task: tuple[str, ...] = (),
    policy: str = "bundled",
    episodes: int | None = None,
    seed: int | None = None,
    workers: int = 1,
    max_steps: int | None = None,
    replan_steps: int | None = None,
    latency_steps: int = 0,
    through: Literal["process", "nodes"] = "process",
    device: str = "cpu",
    option: SuiteOptions = (),
    method: str = "",
    videos: int = 2,
    timeout: float = 120.0,
    out: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Evaluate a policy in lock-step: same seed, same checkpoint, the same episodes bit for bit.

    With --out every finished episode is kept: the same command goes on where it was stopped or killed, and repeats
    episodes that ended in an error. What an option does not say is the benchmark's own protocol.

    Example: lavla eval tabletop --task pick_place --policy bundled --episodes 50 --seed 0 --out runs/eval

    Example: lavla eval libero_object --task 3 --policy runs/policy/best --workers 2 --out runs/object

    Example: lavla eval robotwin --robotwin-root RoboTwin --task paper_4 --policy runs/policy/best --out runs/robotwin

    Args:
        suite: Name of a suite (docs/evaluation.md lists them), or module:factory of yours.
        task: Names or numbers, or a set of tasks that the suite names; none: the suite's default tasks.
        policy: Checkpoint directory, "bundled", "expert" (scripted, on privileged state), "replay:DATASET"
            (recorded actions), or "remote" (a policy node with use_sim_time that runs in this ROS domain).
        episodes: Episodes of each task.
        seed: Seed of the evaluation; episode i of seed s always begins in the same state.
        workers: Parallel simulators; changes nothing but the wall time.
        max_steps: Contract steps after which an episode has failed.
        replan_steps: Contract steps executed from a chunk before the next inference.
        latency_steps: Contract steps that pass between an observation and its chunk arriving.
        through: Where a checkpoint runs: in the worker's process, or in a policy node behind ROS topics.
        device: Where a checkpoint runs: cpu, cuda, …
        option: Option of the suite as name=value, once for each; --name value does the same.
        method: Row of the paper's tables, if not the one that the checkpoint says.
        videos: So many successes and failures are shown in the report.
        timeout: Seconds without an answer of policy or simulator after which an episode is in error.
        out: Folder for results.json, report.html and every finished episode.
        as_json: Print results as JSON instead of a line.
    """
    from sim_bridges.evaluation.evaluation import EvaluationConfig
    from sim_bridges.evaluation.evaluation import evaluate as run
    from sim_bridges.evaluation.results import EpisodeResult
    from sim_bridges.evaluation.suites import parse_options
    from sim_bridges.paper.tables import PAPER

    config = EvaluationConfig(
        suite=suite,
        tasks=task,
        policy=policy,
        through=through,
        episodes=episodes,
        seed=seed,
        max_steps=max_steps,
        replan_steps=replan_steps,
        latency_steps=latency_steps,
        device=device,
        options={name: value for name, value in parse_options(option).items() if value},
        method=method,
        videos=videos,
        timeout_s=timeout,
    )
    progress = _Progress(suite, 0, quiet=as_json)

    def on_episode(result: EpisodeResult) -> None:
        progress.advance("error" if result.error else "success" if result.success else "failure")

    with progress:
        results = run(
            config, out=out, workers=workers, on_start=progress.expect, on_episode=on_episode, published=PAPER
        )
    if as_json:
        print(json.dumps(results.to_dict(), indent=2))
    else:
        print(results.summary())
        print(results.comparable)
        speed = [f"{results.real_time_factor:.1f} x real time"] if results.real_time_factor else []
        if last := "; ".join([*speed, *([f"written to {out}"] if out else [])]):
            print(last)
    if results.errors:
        first = results.errors[0]
        raise CommandError(
            f"{len(results.errors)} episodes ended in error; the first, episode {first.index}: {first.error}"
            + ("; the same command repeats them" if out else "")
        )


@app.command
def compare(
    evaluations: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare evaluations of the same initial states, episode against episode (exact McNemar test).

    The first is the reference; every other one of the same suite is paired with it. With --out, a page with all of
    them and the paper's tables filled in.

    Example: lavla compare runs/object_baseline runs/object_la_direct --out runs/object.html

    Args:
        evaluations: Folders of `lavla eval --out`, or their results.json.
        out: HTML page.
        as_json: Print the comparisons as JSON.
    """
    from sim_bridges.evaluation.compare import compare as pair
    from sim_bridges.evaluation.compare import short_names
    from sim_bridges.evaluation.report import write_comparison
    from sim_bridges.evaluation.results import Results
    from sim_bridges.paper.tables import PAPER

    if len(evaluations) < 2:
        raise CommandError(f"{len(evaluations)} evaluations given; a comparison needs two or more")
    results = [Results.read(path) for path in evaluations]
    names = short_names([path.parent if path.suffix == ".json" else path for path in evaluations])
    others = [i for i in range(1, len(results)) if results[i].suite == results[0].suite]
    if not others:
        suites = sorted({each.suite for each in results})
        raise CommandError(f"nothing to pair with {names[0]}: the evaluations are of the suites {suites}")
    comparisons = [pair(results[0], results[i], names=(names[0], names[i])) for i in others]
    if out is not None:
        command = shlex.join(["lavla", "compare", *map(str, evaluations), "--out", str(out)])
        write_comparison(out, results, names, comparisons, reproduce=command, published=PAPER)
    if as_json:
        print(json.dumps([each.to_dict() for each in comparisons], indent=2))
    else:
        print("\n\n".join(map(str, comparisons)))


@app.command
def emulator() -> None:
    """Run the JAKA controller emulator over the live tabletop. "lavla emulator --help" lists every option.

    Example: lavla emulator --port 10001 --status-port 10000 --without-commands coast --no-reports-safety
    """
    raise AssertionError("main() hands this command to sim_bridges.tabletop.live")


@app.command
def record(
    out: Path,
    by: Literal["expert", "person"] = "expert",
    task: Literal["pick_place", "stack_bowls"] = "pick_place",
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    disturb: bool = True,
    layout: Literal["id", "ood"] = "id",
    contract: str = "jaka_minicobo",
    instruction: str = "",
    stack: tuple[str, ...] = (),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Record demonstrations over ROS, one bag per episode.

    expert: the scripted one, in the simulator; nobody has to be there.
    person: brings up "record_demos" (as "lavla up" does) and records at the keyboard's command, while a person
    teleoperates the arm (a node of yours publishes /action_chunk) or guides it by hand (--stack standby:=true).

    Example: lavla record --out runs/bags --episodes 400 --seed 0 --workers 2

    Example: lavla record --by person --out runs/bags --instruction "Put the mango into the bowl."
    --stack simulate:=false robot_ip:=10.5.5.100 standby:=true

    Args:
        out: Folder for the bags.
        by: Who demonstrates. The options seed, workers, disturb, layout and json are for the expert;
            instruction and stack for a person.
        instruction: What the person's episodes show, in words.
        stack: Arguments of record_demos, name:=value.
        task: What the expert demonstrates.
        episodes: How many; the expert's default is 400, a person goes on until "q", or until so many have succeeded.
        seed: Episode i has the layout of seed + i; seeds from 1000000 on are kept for evaluation.
        workers: Parallel simulators, each with a recorder and a ROS domain of its own.
        disturb: Push the arm off its way in short bursts, so that demonstrations show recovery.
        layout: Object placements.
        contract: Contract name or file.
        as_json: Print the summary as JSON.
    """
    if by == "person":
        from lavla_ros.bringup.person import record_person

        stack_arguments = {"task": task, "contract": contract, **_stack_arguments(stack)}
        record_person(out, instruction, stack_arguments, episodes or 0)
        return
    episodes = 400 if episodes is None else episodes
    from sim_bridges.tabletop.record import RecordConfig, record_expert

    config = RecordConfig(
        out=out,
        task=task,
        layout=layout,
        contract=contract,
        episodes=episodes,
        seed=seed,
        workers=workers,
        disturb=disturb,
    )
    with _Progress(f"recording {task}", episodes, quiet=as_json) as progress:
        summary = record_expert(config, lambda e: progress.advance("success" if e["success"] else "failure"))
    if as_json:
        print(to_json(summary))
    else:
        print(
            f"{summary.episodes} episodes recorded below {out}, {summary.succeeded} successful, {summary.steps} steps "
            f"in {summary.wall_s:.0f} s"
        )


@app.command
def up(stack: tyro.conf.Positional[str], arguments: tyro.conf.Positional[tuple[str, ...]] = (), /) -> None:
    """Start a stack, as "ros2 launch lavla_ros STACK.launch.py" does, without needing launch_ros. Ctrl-C stops it.

    Example: lavla up jaka_policy policy:=runs/policy/best record:=true

    Args:
        stack: Name of a stack in config/stacks, or a file. "lavla up STACK --help" lists its arguments.
        arguments: name:=value, as for ros2 launch.
    """
    from lavla_ros.bringup.launcher import up as run

    if arguments == ("help",):
        _show_stack_arguments(stack)
    else:
        sys.exit(run(stack, _stack_arguments(arguments)))


def _show_stack_arguments(stack: str) -> None:
    from lavla_ros.bringup.stack import read_arguments

    for argument in read_arguments(stack):
        choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
        default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
        print(f"{argument.name}:={default}\n    {argument.description}{choices}")


def _stack_arguments(texts: Sequence[str]) -> dict[str, str]:
    values = {}
    for text in texts:
        name, separator, value = text.partition(":=")
        if not separator or not name:
            raise CommandError(f"{text!r} is no stack argument; write name:=value (lavla up STACK --help lists them)")
        values[name] = value
    return values


@app.command
def convert(
    bags: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    contract: str = "jaka_minicobo",
    jobs: int | None = None,
    ray: str | None = None,
    outcomes: tuple[str, ...] = ("succeeded",),
    instruction: str | None = None,
    allow_gaps: bool = False,
    min_steps: int = 2,
    allow_contract_differences: bool = False,
    log_time: tuple[str, ...] = (),
    codec: Literal["libx264", "libsvtav1"] = "libx264",
    resume: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Convert recorded episodes to a LeRobotDataset v3.0. docs/bags.md says which bags are taken.

    Example: lavla convert runs/bags --out runs/dataset

    Args:
        bags: Bags, or folders that are searched for bags.
        out: The new dataset.
        contract: Contract name or file; bags recorded under another one are rejected.
        jobs: Processes; default one per core. The dataset does not depend on it.
        ray: Address of a Ray cluster (HOST:6379 or auto) whose machines do the work; see docs/scaling.md.
        outcomes: Episode marks to convert; add "unmarked" for bags of other recorders.
        instruction: Instruction for bags that carry none.
        allow_gaps: Keep episodes with lost steps.
        min_steps: Shorter episodes are rejected.
        allow_contract_differences: Convert bags that were recorded under another contract, where topics and names fit.
        log_time: Streams (cameras, state, command) to take by their log times, because their stamps are 0 or of
            another clock.
        codec: Of the videos.
        resume: Go on with a dataset that was broken off, or add the bags that it does not hold yet.
        as_json: Print the report as JSON, also where nothing could be converted.
    """
    options = {
        "outcomes": outcomes,
        "instruction": instruction,
        "allow_gaps": allow_gaps,
        "min_steps": min_steps,
        "allow_contract_differences": allow_contract_differences,
        "log_time": log_time,
    }
    _ingest("bag", bags, out, contract, options, codec, jobs, ray, resume, as_json)


def _ingest(
    kind: str,
    paths: Sequence[Path],
    out: Path,
    contract: str | None,
    options: dict[str, Any],
    codec: Literal["libx264", "libsvtav1"],
    jobs: int | None,
    ray: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Make a dataset of recordings, show how far it is, print the report."""
    from training.ingest import IngestError, ingest
    from training.scale import Workers

    expected = 0
    with _Progress("converting" if kind == "bag" else f"importing {kind}", 0, quiet=as_json) as progress:

        def on_start(sources: int) -> None:
            nonlocal expected
            progress.expect(expected := sources)

        def on_episode(report: Any) -> None:
            nonlocal expected
            if report.part > 1:  # a source of several
                progress.expect(expected := expected + 1)
            progress.advance("rejected" if report.rejected else "converted" if kind == "bag" else "imported")

        try:
            report = ingest(
                kind,
                paths,
                out,
                contract=contract,
                options=options,
                codec=codec,
                workers=Workers(jobs=jobs, ray=ray),
                resume=resume,
                on_start=on_start,
                progress=on_episode,
            )
        except IngestError as error:
            if as_json and error.report is not None:
                print(to_json(error.report.to_dict()))
            raise
    print(to_json(report.to_dict()) if as_json else str(report))


@app.command
def recover(bag: tyro.conf.Positional[Path], /, out: Path | None = None) -> None:
    """Make a readable bag of one whose recorder was killed, or that was cut off. The original stays as it is.

    Args:
        bag: The bag's folder, or its .mcap or .db3 file.
        out: Folder of the new bag; default is the old name with _recovered, beside it.
    """
    from lavla_ros.recording import recover_bag

    print(recover_bag(bag, out))


@app.command(name="import")
def import_demonstrations(
    kind: tyro.conf.Positional[str],
    source: tyro.conf.Positional[Path],
    /,
    out: Path,
    contract: str | None = None,
    mapping: Path | None = None,
    instruction: str | None = None,
    upright: bool = False,
    option: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("-o",))] = (),
    codec: Literal["libx264", "libsvtav1"] = "libx264",
    jobs: int | None = None,
    ray: str | None = None,
    resume: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Import the demonstrations of others: LIBERO or RoboTwin HDF5, a LeRobot dataset (v2.0, v2.1, v3.0), or a format
    of your own.

    Look at meta/first_frames.png of the new dataset afterwards: it shows how the pictures stand.

    Example: lavla import libero downloads/libero_object --out runs/libero_object

    Args:
        kind: What the source is: libero, robotwin, lerobot, bag, or module:attribute of your own Recordings.
        source: A file, or a folder of them; for lerobot the dataset's folder.
        out: The new dataset.
        contract: Contract name or file; for LIBERO and RoboTwin theirs is the default.
        mapping: lerobot: YAML that says which of the dataset's cameras and dimensions are which of the contract's, and
            how its pictures stand; see docs/training.md.
        instruction: Instruction of episodes that carry none, or in place of theirs.
        upright: libero: the pictures stand upright already; LIBERO's own and OpenVLA's files have them upside down.
        option: Options of other kinds, each name=value; the value is read as YAML.
        codec: Of the videos.
        jobs: Processes; default one per core. The dataset does not depend on it.
        ray: Address of a Ray cluster (HOST:6379 or auto) whose machines do the work; see docs/scaling.md.
        resume: Go on with a dataset that was broken off, or add the episodes that it does not hold yet.
        as_json: Print the report as JSON, also if nothing could be imported.
    """
    named = {"mapping": mapping, "instruction": instruction, "upright": upright or None}
    options = {name: value for name, value in named.items() if value is not None} | _named_values(option)
    _ingest(kind, [source], out, contract, options, codec, jobs, ray, resume, as_json)


def _named_values(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` of an own kind's options; values are YAML."""
    from lavla_ros.yaml_text import load_yaml

    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise CommandError(f"{text!r} is no option; write name=value")
        values[name] = load_yaml(value)
    return values


@app.command
def dataset(
    action: tyro.conf.Positional[Literal["check", "repair"]],
    path: tyro.conf.Positional[Path],
    /,
    deep: bool = False,
    strict: bool = False,
    jobs: int | None = None,
    dry_run: bool = False,
    removed: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Check a dataset, or mend what a crash or a damaged disk left of it.

    A check reads every file once: counts, checksums, values, units, jumps, capture times, statistics. With --deep it
    decodes the videos too (1 ms of one core per frame of 224x224) and finds black, frozen, late and exchanged cameras.

    Example: lavla dataset check runs/dataset --deep

    Example: lavla dataset repair runs/dataset --dry-run

    Args:
        action: check lists what is wrong (exit status 1 if there is an error); repair mends what can be mended, and
            moves aside what cannot.
        path: The dataset.
        deep: check: decode every video.
        strict: check: a warning is an error too.
        jobs: check: threads that decode; default one per core.
        dry_run: repair: only say what would be done.
        removed: repair: where to move what is taken out; default is the folder removed/ of the dataset.
        as_json: check: print the report as JSON. repair: the same, of the dataset afterwards.
    """
    from training.dataset import check, repair

    if action == "repair":
        lines = repair(path, dry_run=dry_run, removed=removed)
        for line in lines or ["nothing to mend"]:
            print(f"would: {line}" if dry_run and lines else line, file=sys.stderr if as_json else sys.stdout)
        if dry_run:
            return
    with _Progress("decoding", 0, quiet=as_json or not deep) as progress:
        report = check(path, deep=deep, jobs=jobs, progress=progress.show)
    print(to_json(report) if as_json else str(report))
    if report.errors or (strict and report.warnings):
        raise CommandError(f"{path} has {len(report.errors)} errors and {len(report.warnings)} warnings")


@app.command
def demo(
    out: Path | None = None,
    policy: str = "bundled",
    task: Literal["pick_place", "stack_bowls"] = "pick_place",
    episodes: int = 5,
    seed: int = 0,
) -> None:
    """Watch a learned policy move the emulated JAKA arm, live over ROS 2; writes bags, videos and a report.

    Args:
        out: New folder; default runs/demo-<time>.
        policy: Checkpoint directory, or "bundled".
        task: What the arm is to do.
        episodes: How many episodes.
        seed: Their layouts.
    """
    from datetime import datetime

    from sim_bridges.demo import DemoConfig, run_demo

    folder = out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    config = DemoConfig(out=folder, policy=policy, task=task, episodes=episodes, seed=seed)
    results = run_demo(config, lambda text: print(f"demo: {text}", flush=True))
    print(f"demo: {results.summary()}")
    print(f"demo: open {folder}/report.html; videos {folder}/episode_*.mp4, bags {folder}/bags, {folder}/results.json")


@app.command
def demo_bimanual(
    out: Path | None = None, tasks: tuple[str, ...] = (), episodes: int = 1, seed: int = 0, disturb: bool = False
) -> None:
    """Watch two arms solve the tasks of the stand-in for RoboTwin, live over ROS 2; writes bags, videos and a report.

    The scripted expert acts; a policy of yours does with "lavla up robotwin_policy policy:=…".

    Args:
        out: New folder; default runs/demo-bimanual-<time>.
        tasks: stack_two_blocks, handover_block, move_blocks_to_pads; none: all of them.
        episodes: How many of each.
        seed: Their scenes.
        disturb: Push the arms now and then, and see the expert recover.
    """
    from datetime import datetime

    from sim_bridges.robotwin.demo import BimanualDemoConfig, run_bimanual_demo

    folder = out or Path("runs") / f"demo-bimanual-{datetime.now():%Y%m%d-%H%M%S}"
    config = BimanualDemoConfig(out=folder, tasks=tasks, episodes=episodes, seed=seed, disturb=disturb)
    results = run_bimanual_demo(config, lambda text: print(f"demo: {text}", flush=True))
    print(f"demo: {results.summary()}")
    print(f"demo: open {folder}/report.html; videos {folder}/episode_*.mp4, bags {folder}/bags, {folder}/results.json")


@app.command
def bench(
    name: tyro.conf.Positional[str],
    /,
    out: Path | None = None,
    scenarios: tuple[str, ...] = (),
    duration: float = 60.0,
    burn: bool = False,
    policy: str = "",
    option: SuiteOptions = (),
    task: str = "",
    strategies: tuple[str, ...] = (),
    size: Literal["2b", "small"] = "2b",
    batch_size: int = 32,
) -> None:
    """Measure on this machine; JSON on standard output, and into a file.

    servo: punctuality of the 125 Hz loop, measured at the controller. safety: what the arm does when something breaks,
    in about seven minutes. pipeline: camera capture to first command. train: seconds and memory of an optimizer step,
    for every strategy. The name of a suite, or module:factory of yours: steps per second in lock-step, in process and
    over topics, pictures, memory, and speed of an evaluation against real time.

    Args:
        name: What to measure.
        out: JSON file.
        scenarios: safety: parts of the names of those that are run; none: all of them.
        duration: Seconds (servo, pipeline).
        burn: servo: load every core with matrix products meanwhile.
        policy: The policy that runs; default: the bundled one, for a suite that which the package has for it, if any.
        option: Option of the suite as name=value, once for each; --name value does the same.
        task: Task of the suite; default: its first usual one.
        strategies: train: which to measure, by name or as module:attribute; none: all that come with the package.
        size: train: the full-size model, which needs a GPU, or a small one that shows that it runs.
        batch_size: train: samples per step.
    """
    from sim_bridges.evaluation.results import write_json

    if name == "servo":
        from benchmarks import servo

        figures = servo.run(duration_s=duration, burn=burn, policy=policy or "bundled")
    elif name == "safety":
        from benchmarks.safety import campaign

        figures = campaign.run(scenarios)
    elif name == "pipeline":
        from benchmarks import pipeline

        figures = pipeline.run(policy=policy or "bundled", duration_s=duration)
    elif name == "train":
        from benchmarks import gpu_train

        figures = gpu_train.run(size=size, batch_size=batch_size, strategies=strategies)
    else:
        from benchmarks import suite
        from sim_bridges.evaluation.suites import parse_options

        figures = suite.run(name, options=parse_options(option), task=task, policy=policy)
    if out is not None:
        write_json(out, figures)
    print(json.dumps(figures, indent=2))


@app.command
def train() -> None:
    """Train a policy on a dataset. "lavla train --help" lists every option.

    Example: lavla train --config config/training/tabletop_tiny.yaml --data.dataset runs/dataset --output runs/policy
    """
    raise AssertionError("main() hands this command to training.train")


@app.command
def export(
    checkpoint: tyro.conf.Positional[Path],
    /,
    out: Path,
    what: Annotated[Literal["adapters", "merged"], tyro.conf.arg(name="as")] = "merged",
) -> None:
    """Write a trained policy with the adapters merged into its backbone, or the adapters alone.

    Example: lavla export runs/policy/best --as merged --out runs/policy/deployed

    Args:
        checkpoint: Directory of a policy with a pretrained backbone and LoRA.
        out: New directory.
        what: merged: a checkpoint that runs without peft and without the base model. adapters: what
            peft's PeftModel.from_pretrained reads.
    """
    from lavla_ros.policy.export import export_adapters, export_merged

    {"adapters": export_adapters, "merged": export_merged}[what](checkpoint, out)
    print(out)


@app.command
def study(
    bags: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    suite: str = "tabletop",
    option: SuiteOptions = (),
    task: tuple[str, ...] = (),
    steps: int = 2000,
    strategies: tuple[str, ...] = (),
    episodes: int | None = None,
    replan_steps: int | None = None,
    live_episodes: int = 3,
    workers: int = 2,
    action_recipe: Path | None = None,
    image_recipe: Path | None = None,
    policy_recipe: Path | None = None,
) -> None:
    """Compare the strategies, from bags to a table, unattended. Goes on where it was stopped.

    Bags → dataset → two latent action models → labels → a policy for each strategy → lock-step evaluation → comparison
    → if the suite has a live stack, each policy through its node there. Writes OUT/study.md, study.json, compared.html.

    Example: lavla record --out runs/bags --episodes 600 --workers 2 && lavla study runs/bags --out runs/study

    Example: lavla study runs/libero_bags --suite libero_object --task 3 --out runs/libero_study

    Args:
        bags: Recorded episodes, or folders of them.
        out: Folder of the study.
        suite: Where the bags were recorded and the policies are evaluated: name of a suite, or module:factory of yours.
        option: Option of the suite as name=value, once for each; --name value does the same.
        task: Tasks of the suite, by name or number; none: its default ones.
        steps: Optimizer steps of every policy.
        strategies: Which to compare, by name or as module:attribute; none: all that come with the package.
        episodes: Lock-step episodes per task and policy, the same for all; default: the suite's for studies.
        replan_steps: Contract steps between two inferences; default: the suite's.
        live_episodes: Episodes of each policy through its node on the suite's live stack; 0 leaves them out.
        workers: Policies that are trained and evaluated at a time.
        action_recipe: Configuration of the action latent action model; default: the suite's, as for the next two.
        image_recipe: Configuration of the image latent action model.
        policy_recipe: Configuration of the policies.
    """
    from sim_bridges.evaluation.suites import parse_options
    from sim_bridges.paper.study import StudyConfig, run_study

    config = StudyConfig(
        bags=bags,
        out=out,
        suite=suite,
        options=parse_options(option),
        tasks=task,
        steps=steps,
        strategies=strategies,
        episodes=episodes,
        replan_steps=replan_steps,
        live_episodes=live_episodes,
        workers=workers,
        action_recipe=action_recipe,
        image_recipe=image_recipe,
        policy_recipe=policy_recipe,
    )
    program = [sys.executable, "-m", "lavla_ros.cli"]
    table = run_study(config, lambda text: print(f"study: {text}", file=sys.stderr, flush=True), lavla=program)
    print(table.read_text(encoding="utf-8"))


@latent.command(name="train")
def latent_train() -> None:
    """Train an action or an image latent action model. "lavla latent train action --help" lists every option.

    Example: lavla latent train action --config config/latent/action_tabletop.yaml --output runs/latent_action
    """
    raise AssertionError("main() hands this command to training.latent_actions")


@latent.command(name="label")
def latent_label(
    dataset: tyro.conf.Positional[Path],
    /,
    model: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction],
    name: str | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    gpus_per_task: float = 0.0,
    codes_only: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    cache_dir: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Write the latent actions of every step beside a dataset, for `lavla train`. Goes on where a run was stopped.

    Example: lavla latent label runs/dataset --model runs/latent_action/model --model runs/latent_image/model

    Args:
        dataset: The dataset; labels go into its folder latent/.
        model: Directory of a latent action model; may be given several times.
        name: Name of the label set; default is the model's kind, action or image.
        jobs: Processes; default one per core, on a GPU one. The labels do not depend on it.
        ray: Address of a Ray cluster (HOST:6379 or auto) whose machines do the work; see docs/scaling.md.
        gpus_per_task: GPUs that Ray sets aside for each task.
        codes_only: Write z without c: a hundredth of the space, enough unless a strategy learns embeddings
            (LA-Align and the (C) variants).
        device: Where the model runs.
        cache_dir: Folder of image features that training has made, if it is not the dataset's own.
        as_json: Print the reports as JSON.
    """
    from training.latent_actions.labelling import label
    from training.scale import Workers

    if name is not None and len(model) > 1:
        raise CommandError("--name is for one --model at a time")
    reports = []
    for path in model:
        with _Progress(f"labelling with {path}", 0, quiet=as_json) as progress:
            report = label(
                dataset,
                path,
                name=name,
                codes_only=codes_only,
                workers=Workers(jobs=jobs, ray=ray, gpus_per_task=gpus_per_task),
                device=device,
                cache_dir=cache_dir,
                progress=progress.show,
                log=lambda text: print(text, file=sys.stderr),
            )
        health = report.health
        reports.append({**dataclasses.asdict(report), "health": health.figures()})
        if not as_json:
            print(
                f"{report.path}: {report.steps} steps in {report.shards} shards ({report.reused} were there); "
                f"perplexity {health.perplexity:.1f} of {health.size} codes, {health.dead} dead"
            )
    if as_json:
        print(json.dumps(reports, indent=2))


@latent.command(name="encode")
def latent_encode(source: tyro.conf.Positional[Path], /, model: Path, out: Path, states: Path | None = None) -> None:
    """Turn action chunks into codes with an action model, as with any action tokenizer.

    Example: lavla latent encode chunks.npy --states states.npy --model runs/latent_action/model --out codes.npy

    Args:
        source: A .npy of chunks (N, H, m) in the contract's units, or a dataset (the chunk of every step).
        model: Directory of an action latent action model.
        out: The .npy for the codes, (N, H) int32.
        states: A .npy of observed states (N, S), for models that code actions relative to them.
    """
    from training.latent_actions.encode import encode_file

    shape = encode_file(source, model, out, states)
    print(f"{out}: {shape[0] if len(shape) > 1 else 1} chunks of {shape[-1]} codes")


@latent.command(name="decode")
def latent_decode(source: tyro.conf.Positional[Path], /, model: Path, out: Path, states: Path | None = None) -> None:
    """Turn codes back into action chunks.

    Example: lavla latent decode codes.npy --states runs/dataset --model runs/latent_action/model --out actions.npy

    Args:
        source: A .npy of codes (N, H).
        model: Directory of the action latent action model that they are of.
        out: The .npy for the actions, (N, H, m) in the contract's units.
        states: A .npy of observed states (N, S), or the dataset that was encoded.
    """
    from training.latent_actions.encode import decode_file

    print(f"{out}: actions of shape {decode_file(source, model, out, states)}")


@latent.command(name="inspect")
def latent_inspect(
    dataset: tyro.conf.Positional[Path],
    /,
    model: Path,
    out: Path,
    examples: int = 6,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Show what codes mean: linear probes to actions, codebook usage, and pictures of what each code is used for.

    Example: lavla latent inspect runs/dataset --model runs/latent_image/model --out runs/meaning

    Args:
        dataset: A dataset that was labelled with the model.
        model: Directory of a latent action model.
        out: New folder for index.html, meaning.json, usage.png and codes/.
        examples: Transitions per code.
        as_json: Print meaning.json instead of a summary.
    """
    from training.latent_actions.meaning import inspect

    meaning = inspect(dataset, model, out, examples=examples)
    if as_json:
        print((out / "meaning.json").read_text(encoding="utf-8"))
        return
    for probe in meaning.probes:
        print(f"R² {probe.r2:.3f} (shuffled {probe.shuffled:.3f}) from {probe.source} to {probe.target}")
    print(", ".join(f"{name} {value:.3g}" for name, value in meaning.health.items()))
    print(f"open {out}/index.html")


def _train_latent(arguments: list[str]) -> int:
    """`lavla latent train [action|image] --config YAML …`; without a kind the file's own decides."""
    from training.latent_actions import action_train, image_train

    mains = {"action": action_train.main, "image": image_train.main}
    if arguments and arguments[0] in mains:
        return mains[arguments[0]](arguments[1:])
    kind = None
    if "--config" in arguments[:-1]:
        content = read_plain(Path(arguments[arguments.index("--config") + 1]))
        kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in mains:
        raise CommandError("say which model to train: lavla latent train action|image [--config YAML] [options]")
    return mains[kind](arguments)


class _Progress:
    """Episode counter on standard error, so that standard output stays the answer."""

    def __init__(self, label: str, total: int, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tally]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(label, total=total, tally="")
        self._tally: dict[str, int] = {}

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, outcome: str) -> None:
        self._tally[outcome] = self._tally.get(outcome, 0) + 1
        tally = ", ".join(f"{count} {name}" for name, count in sorted(self._tally.items()))
        self._progress.update(self._task, advance=1, tally=tally)

    def expect(self, total: int) -> None:
        """For work whose amount is known later."""
        self._progress.update(self._task, total=total)

    def show(self, done: int, total: int) -> None:
        """For work that counts for itself."""
        self._progress.update(self._task, completed=done, total=total)


def expected_errors() -> tuple[type[BaseException], ...]:
    """Error types whose message is written for the user: printed without a traceback."""
    return (CommandError, ValueError, RuntimeError, OSError)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``lavla`` console script."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored: nohup
        signal.signal(signal.SIGHUP, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter shows a question mark
    try:
        use_writable_places()
        if arguments == ["--version"]:
            print(f"lavla_ros {metadata.version('lavla_ros')}")
            return
        if arguments[:1] == ["up"] and len(arguments) > 2 and {"-h", "--help"} & set(arguments[2:]):
            _show_stack_arguments(arguments[1])
            return
        if arguments[:1] == ["train"]:  # its options are the keys of its own configuration
            from training.train import main as train_main

            sys.exit(train_main(arguments[1:]))
        if arguments[:1] == ["emulator"]:
            from sim_bridges.tabletop.live import main as live_main

            sys.exit(live_main(arguments[1:], prog="lavla emulator"))
        if arguments[:2] == ["latent", "train"]:
            sys.exit(_train_latent(arguments[2:]))
        with_suite: dict[str, Callable[..., None]] = {"eval": evaluate, "study": study, "bench": bench}
        if arguments and (command := with_suite.get(arguments[0])):
            from sim_bridges.evaluation.suites import spell_options

            arguments = spell_options(arguments, signature(command).parameters)
        app.cli(prog="lavla", description=_DESCRIPTION, args=arguments)
    except expected_errors() as error:
        print(f"lavla: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lavla: interrupted", file=sys.stderr)
        sys.exit(130)


def _interrupt(*_: object) -> None:
    """SIGTERM, and the end of the terminal, end a command as Ctrl-C does: whatever it started is stopped first."""
    raise KeyboardInterrupt


def to_json(value: Any) -> str:
    """JSON of a dataclass or plain value, for --json outputs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, indent=2, default=str)


if __name__ == "__main__":
    main()
