"""The folder of a comparison: what is judged, every try of every rollout, and what comes of them.

judging.json                 the protocol, the models' hashes and the reset pictures'; anything else is refused
rollouts/000007.json         all tries of a rollout, written whole and synced before anything of them is shown
bags/, videos/, pictures/    what was recorded; none of them has the name of a model
logs/000007.log              what the nodes said in the last try of a rollout
results/MODEL/results.json   as of `lavla eval`, once every rollout has a score; rollouts.md beside it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from lavla_ros.config import ConfigError, differences, from_plain, read_config, to_plain
from lavla_ros.contract import load_contract, require_same_contract
from lavla_ros.errors import UserError
from lavla_ros.outputs import replacing, sole_writer
from lavla_ros.policy.checkpoint_files import checkpoint_path
from sim_bridges.evaluation.policies import policy_config, policy_hash
from sim_bridges.evaluation.report import NOTHING_PUBLISHED, Published, write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.files import write_json
from sim_bridges.judging.protocol import Protocol, Rollout
from sim_bridges.judging.sheet import Scoring, Sheet
from sim_bridges.judging.tables import rollout_table

SUITE = "judged"
"""Suite of the results: no simulator's."""
LEFT = "the person left"
"""How the error of a try begins that a person broke off."""


class JudgingError(UserError, RuntimeError):
    """The folder is of another comparison, is damaged, or cannot be written; what was scored is kept."""


class JudgingFolder:
    """``with JudgingFolder.open(file, out) as folder: while (rollout := folder.next()) is not None: …``"""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """``facts``: what judging.json holds. Raises ConfigError if that is no protocol of this version."""
        self.path = path
        self.protocol = from_plain(Protocol, facts["protocol"], source=str(path / "judging.json"))
        self.rollouts = self.protocol.rollouts()
        self._facts = facts
        self._alone = ExitStack()

    @classmethod
    def read(cls, path: Path) -> Self:
        """One that was begun. Raises JudgingError."""
        return cls(path, _json(path / "judging.json"))

    @classmethod
    def open(cls, file: Path, path: Path) -> Self:
        """Begin, or go on with, the comparison that the protocol ``file`` describes.

        Raises ConfigError for a wrong protocol, CheckpointError or ContractError for a model that cannot be run with
        its contract, JudgingError if ``path`` is of another comparison, or of this one before it was changed.
        """
        protocol = read_config(Protocol, file)
        facts = json.loads(json.dumps(_facts(protocol, file)))
        known = path / "judging.json"
        if known.exists():
            before = _json(known)
            if before != facts:
                raise JudgingError(
                    f"{path} was begun with another protocol, and its scores would not be of one comparison; give "
                    "another --out, or put back\n  " + "\n  ".join(differences(before, facts))
                )
        elif path.exists() and any(path.iterdir()):
            raise JudgingError(f"{path} holds something else; give another --out")
        return cls(path, facts)

    def __enter__(self) -> Self:
        """Raises OutputError if another process is judging there."""
        with ExitStack() as stack:
            stack.enter_context(sole_writer(self.path))
            if not (self.path / "judging.json").exists():
                self._write(self.path / "judging.json", self._facts)
            self._break_off()
            self._alone = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._alone.close()

    def _break_off(self) -> None:
        """A try that was open when a session ended has no score: it is repeated."""
        for rollout in self.rollouts:
            tries = self.tries(rollout)
            if tries and tries[-1].phase not in ("scored", "error"):
                self.fail(rollout, "the session ended within the rollout")

    # Rollouts.

    def next(self) -> Rollout | None:
        """The first rollout without a score."""
        return next((each for each in self.rollouts if self.scored(each) is None), None)

    def tries(self, rollout: Rollout) -> list[Sheet]:
        file = self._file(rollout)
        if not file.exists():
            return []
        try:
            return [Sheet.read(row) for row in _json(file)["tries"]]
        except (KeyError, TypeError) as error:
            raise JudgingError(f"{file} is damaged: {error}; move it aside, and the rollout is repeated") from None

    def scored(self, rollout: Rollout) -> Sheet | None:
        """The try that counts: the last one, if it has a score."""
        tries = self.tries(rollout)
        return tries[-1] if tries and tries[-1].phase == "scored" else None

    def scoring(self, rollout: Rollout) -> Scoring:
        """A new try. Every change of it is on the disk before it is shown; raises JudgingError if it cannot be."""
        task = self.protocol.tasks[rollout.task]
        before = [asdict(sheet) for sheet in self.tries(rollout)]

        def keep(sheet: Mapping[str, Any]) -> None:
            self._write(self._file(rollout), {"rollout": rollout.name, "tries": [*before, sheet]})

        p = self.protocol
        scoring = Scoring(task.scored_by, keep, idle_s=p.idle_s, longest_s=p.longest_s)
        keep(asdict(scoring.sheet))
        return scoring

    def fail(self, rollout: Rollout, why: str) -> None:
        """The last try, if it is open, or one that did not come to begin, has ended in an error."""
        tries = self.tries(rollout)
        last = tries.pop() if tries and tries[-1].phase not in ("scored", "error") else Sheet()
        rows = [*(asdict(sheet) for sheet in tries), {**asdict(last), "phase": "error", "error": why}]
        self._write(self._file(rollout), {"rollout": rollout.name, "tries": rows})

    def again(self, index: int, why: str) -> Rollout:
        """A rollout that has a score is to be repeated; the score stays in its file. Raises JudgingError."""
        if not 0 <= index < len(self.rollouts) or self.scored(self.rollouts[index]) is None:
            raise JudgingError(f"rollouts/{index:06d}.json has no score; it cannot be repeated")
        rollout = self.rollouts[index]
        rows = [asdict(sheet) for sheet in self.tries(rollout)]
        rows.append({**asdict(Sheet()), "phase": "error", "error": why})
        self._write(self._file(rollout), {"rollout": rollout.name, "tries": rows})
        return rollout

    # Pictures, bags and videos.

    @property
    def bags(self) -> Path:
        return self.path / "bags"

    def picture(self, rollout: Rollout, what: str) -> Path:
        """``initial``, ``final`` or ``overlay``."""
        return self.path / "pictures" / f"{rollout.index:06d}_{what}.png"

    def log(self, rollout: Rollout) -> Path:
        return self.path / "logs" / f"{rollout.index:06d}.log"

    def video(self, rollout: Rollout) -> Path:
        return self.path / "videos" / f"{rollout.index:06d}.mp4"

    def reset_picture(self, rollout: Rollout) -> Path | None:
        """What to lay the scene out by: the given picture, or the first scored rollout's of the same layout."""
        if (given := self._facts["pictures"].get(rollout.layout)) is not None:
            return Path(given["file"])
        same = [each for each in self.rollouts if each.layout == rollout.layout and each.index != rollout.index]
        first = next((each for each in same if self.scored(each) is not None), None)
        return self.picture(first, "initial") if first is not None else None

    # Results.

    def results(self, published: Published = NOTHING_PUBLISHED) -> dict[str, Results]:
        """Model → its rollouts, those in error included, in the harness's format."""
        contract = load_contract(self.protocol.contract)
        found = {}
        for name, model in self.protocol.models.items():
            settings = {key: self._facts["protocol"][key] for key in ("tasks", "idle_s", "longest_s", "seed", "order")}
            rows = [self._episode(each, contract.rate_hz) for each in self.rollouts if each.model == name]
            found[name] = Results(
                suite=SUITE,
                task=",".join(dict.fromkeys(each.judged_task for each in self.rollouts)),
                policy=model.policy,
                contract_hash=contract.full_hash,
                settings={**settings, "policy_hash": self._facts["models"][name]},
                episodes=tuple(row for row in rows if row is not None),
                assets={"source": "scenes laid out by a person"},
                comparable="Judged by a person by the rubrics of the paper's Appendix F.2, who "
                + ("was not told" if self.protocol.blind else "knew")
                + " which model ran. A person lays out the scenes: a pair of rollouts begins alike, not equally.",
                method=model.method or published.method_of(*policy_config(model.policy)),
                live=True,
                wall_s=sum(row.wall_s for row in rows if row is not None),
            )
        return found

    def _episode(self, rollout: Rollout, rate_hz: float) -> EpisodeResult | None:
        tries = self.tries(rollout)
        if not tries:
            return None
        sheet, rubric = tries[-1], self.protocol.tasks[rollout.task].scored_by
        values = [value for value in sheet.values(rubric) if value is not None]
        scored = sheet.phase == "scored"
        return EpisodeResult(
            index=rollout.index,
            task=rollout.judged_task,
            trial=rollout.number - 1,
            seed=rollout.number,
            initial_state=rollout.layout,
            success=scored and rubric.success(values),
            score=rubric.score(values) if scored else 0.0,
            length_steps=round(sheet.length_s * rate_hz),
            error=None if scored else sheet.error or "the rollout has no score",
            wall_s=sheet.length_s,
        )

    def write_results(self, published: Published = NOTHING_PUBLISHED) -> list[Path]:
        """A folder for each model: results.json and report.html. Raises JudgingError if a rollout has no score."""
        if (missing := self.next()) is not None:
            raise JudgingError(f"rollout {missing.index + 1} of {len(self.rollouts)} has no score yet")
        folders = []
        for name, results in self.results(published).items():
            folder = self.path / "results" / name
            videos = {e.index: file for e in results.episodes if (file := self.video(self.rollouts[e.index])).exists()}
            try:
                write_report(
                    folder / "report.html",
                    results,
                    title=f"{name}, judged",
                    reproduce=f"lavla judge PROTOCOL --out {self.path}",
                    videos=dict(list(videos.items())[:4]),
                    published=published,
                )
            except OSError as error:
                raise JudgingError(
                    f"cannot write in {folder}: {error.strerror or error}; every score is kept"
                ) from None
            self._write(folder / "results.json", results.to_dict())
            self._write_table(folder / "rollouts.md", name)
            folders.append(folder)
        return folders

    def _write_table(self, file: Path, model: str) -> None:
        rubrics = {name: task.scored_by for name, task in self.protocol.tasks.items()}
        scores = {}
        for each in self.rollouts:
            if each.model == model and (sheet := self.scored(each)) is not None:
                values = sheet.values(rubrics[each.task])
                scores[each.task, each.setting, each.number] = [value for value in values if value is not None]
        try:
            with replacing(file) as temporary:
                temporary.write_text(rollout_table(model, rubrics, scores), encoding="utf-8")
        except OSError as error:
            raise JudgingError(f"cannot write {file}: {error.strerror or error}; every score is kept") from None

    def _file(self, rollout: Rollout) -> Path:
        return self.path / "rollouts" / f"{rollout.index:06d}.json"

    def _write(self, file: Path, data: object) -> None:
        try:
            write_json(file, data)
        except OSError as error:
            raise JudgingError(
                f"cannot write {file}: {error.strerror or error}; this was not taken, and everything before it is kept"
            ) from None


def _facts(protocol: Protocol, file: Path) -> dict[str, Any]:
    """What must stay as it is: the protocol, the content of the models and that of the pictures."""
    contract, models = load_contract(protocol.contract), {}
    for name, model in protocol.models.items():
        models[name] = policy_hash(model.policy)
        if models[name] is None:
            raise ConfigError(f"{file}: models.{name}.policy is {model.policy!r}; expected a checkpoint")
        require_same_contract(
            contract,
            load_contract(str(checkpoint_path(model.policy) / "contract.yaml")),
            ours_from=f"{file} (contract {protocol.contract})",
            theirs_from=f"models.{name} ({model.policy})",
        )
    pictures = {}
    for rollout in protocol.rollouts():
        if (picture := protocol.reset_picture(rollout, file.parent)) is not None:
            digest = hashlib.sha256(picture.read_bytes()).hexdigest()[:16]
            pictures[rollout.layout] = {"file": str(picture.resolve()), "hash": digest}
    return {
        "protocol": to_plain(protocol),
        "contract_hash": contract.full_hash,
        "models": models,
        "pictures": pictures,
    }


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JudgingError(f"cannot read {file}: {error}") from None
    if not isinstance(data, dict):
        raise JudgingError(f"{file} is not what `lavla judge` writes; give another --out")
    return data
