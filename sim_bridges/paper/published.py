"""The paper's tables and figures as data: what it prints, and which of our results belong beside it.

Figures are in percent, as printed. Methods that the paper quotes for reference only are left out. Fig. 4 has the
averages of Tables 13 to 17, Fig. 5 is Table 11, and Fig. 6 is Tables 9 and 10. Of Fig. 8 there are the four points that
App. E.1 says in words; the paper prints no others.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim_bridges.paper.grid import Training

LIBERO = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
ROBOTWIN = ("robotwin", "robotwin_standin")
TABLETOP = ("tabletop", "judged")
"""In simulation, or on an arm and judged by a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table; what of ours belongs there. One without suites is the average of those before it."""

    title: str
    suites: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """Names of suites' tasks; empty: all tasks of the suite together."""
    layout: str = ""
    """Option of the suite; empty: what it was trained with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row: a method under a condition, and its figures; None where the paper prints none."""

    method: str
    figures: tuple[float | None, ...]
    training: Training | None = None
    """None: the table does not tell them apart."""
    weight: float | None = None
    fraction: float = 1.0

    @property
    def condition(self) -> str:
        parts = [f"λ = {self.weight}"] if self.weight is not None else []
        parts += [f"{self.fraction:.0%} of the data"] if self.fraction < 1 else []
        return ", ".join([*parts, *([self.training] if self.training else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]


def _lines(*rows: tuple[str, tuple[float | None, ...]]) -> tuple[Line, ...]:
    return tuple(Line(method=method, figures=figures) for method, figures in rows)


_AVERAGE = Column(title="Avg.")
_LIBERO = (
    *(Column(title=t, suites=(s,)) for t, s in zip(("Spatial", "Object", "Goal", "Long"), LIBERO, strict=True)),
    _AVERAGE,
)
_BASELINE = (96.6, 97.2, 92.8, 85.8, 93.1)
_ALIGN = (97.4, 98.6, 97.2, 94.8, 97.0)
_DIRECT = (97.2, 98.6, 95.8, 96.6, 97.1)
_COND = (97.0, 99.4, 95.8, 94.2, 96.6)
_TOK = (97.0, 100.0, 92.2, 92.6, 95.5)
_FOUR = ("move_playingcard_away", "place_container_plate", "move_can_pot", "pick_dual_bottles")
_TEN = (
    "beat_block_hammer", "click_bell", "grab_roller", "lift_pot", "move_can_pot", "move_playingcard_away",
    "pick_dual_bottles", "pick_diverse_bottles", "place_container_plate", "place_a2b_left",
)  # fmt: skip


def _robotwin(tasks: tuple[str, ...]) -> tuple[Column, ...]:
    return (*(Column(title=t.replace("_", " "), suites=ROBOTWIN, tasks=(t,)) for t in tasks), _AVERAGE)


def _objects(title: str) -> tuple[Column, Column]:
    names = (f"place_{title.lower()}",)
    return (
        Column(title=f"{title} ID", suites=TABLETOP, tasks=names, layout="id"),
        Column(title=f"{title} OOD", suites=TABLETOP, tasks=names, layout="ood"),
    )


TABLES = (
    Table(
        number="1",
        title="Success rates on LIBERO",
        columns=_LIBERO,
        rows=_lines(
            ("baseline", _BASELINE), ("la_align", _ALIGN), ("la_direct", _DIRECT), ("la_cond", _COND), ("la_tok", _TOK)
        ),
    ),
    Table(
        number="2",
        title="Success rates on RoboTwin 2.0, trained on the four tasks together",
        columns=_robotwin(_FOUR),
        rows=tuple(
            Line(method=method, figures=figures)
            for method, figures in {
                "baseline": (73.0, 86.0, 46.0, 37.0, 60.5),
                "la_align": (78.0, 88.0, 55.0, 61.0, 70.5),
                "la_direct": (76.0, 96.0, 64.0, 51.0, 71.8),
                "la_cond": (76.0, 89.0, 52.0, 78.0, 73.8),
                "la_tok": (89.0, 89.0, 70.0, 64.0, 78.0),
            }.items()
        ),
    ),
    Table(
        number="3",
        title="Pick and place on the real arm",
        columns=(*_objects("Mango"), *_objects("Sponge"), *_objects("Bottle")),
        rows=_lines(
            ("baseline", (100.0, 30.0, 60.0, 20.0, 70.0, 0.0)),
            ("la_align", (90.0, 80.0, 90.0, 60.0, 60.0, 30.0)),
            ("la_direct", (100.0, 70.0, 90.0, 80.0, 60.0, 50.0)),
            ("la_cond", (90.0, 90.0, 90.0, 80.0, 50.0, 40.0)),
            ("la_tok", (100.0, 60.0, 90.0, 70.0, 60.0, 20.0)),
        ),
    ),
    Table(
        number="4 (left)",
        title="Continuous or discrete latent actions: LA-Direct",
        columns=_LIBERO,
        rows=_lines(
            ("baseline", _BASELINE),
            ("la_direct_continuous", (95.4, 97.0, 90.0, 95.2, 94.4)),
            ("la_direct", _DIRECT),
        ),
    ),
    Table(
        number="4 (right)",
        title="Continuous or discrete latent actions: LA-Tok",
        columns=_LIBERO,
        rows=_lines(("baseline", _BASELINE), ("la_tok_continuous", (95.6, 98.4, 87.6, 91.6, 93.3)), ("la_tok", _TOK)),
    ),
    Table(
        number="5",
        title="Layer that LA-Align aligns",
        columns=_LIBERO,
        rows=_lines(
            ("baseline", _BASELINE),
            ("la_align_early", (94.0, 96.2, 91.0, 85.2, 91.6)),
            ("la_align_final", (96.8, 99.2, 92.2, 91.8, 95.0)),
            ("la_align", _ALIGN),
        ),
    ),
    Table(
        number="6",
        title="Image-based latent actions without action supervision",
        columns=_LIBERO,
        rows=_lines(
            ("baseline", _BASELINE),
            ("la_align_vision", (97.4, 98.4, 97.4, 94.0, 96.8)),
            ("la_direct_vision", (97.2, 98.4, 97.2, 94.8, 96.9)),
            ("la_cond_vision", (98.4, 99.4, 96.2, 92.8, 96.7)),
        ),
    ),
    Table(
        number="9",
        title="Longer action placeholders against LA-Direct (Fig. 6)",
        columns=_LIBERO,
        rows=_lines(("baseline", _BASELINE), ("ph_direct", (94.0, 94.8, 93.0, 85.8, 91.9)), ("la_direct", _DIRECT)),
    ),
    Table(
        number="10",
        title="Longer action placeholders against LA-Cond (Fig. 6)",
        columns=_LIBERO,
        rows=_lines(("baseline", _BASELINE), ("ph_cond", (96.8, 98.6, 92.0, 88.4, 94.0)), ("la_cond", _COND)),
    ),
    Table(
        number="11",
        title="Single and joint training on ten tasks of RoboTwin 2.0 (Fig. 5)",
        columns=_robotwin(_TEN),
        rows=(
            Line(
                method="baseline",
                training="single",
                figures=(12.0, 39.0, 48.0, 72.0, 44.0, 60.0, 34.0, 14.0, 23.0, 8.0, 35.4),
            ),
            Line(
                method="baseline",
                training="joint",
                figures=(76.0, 44.0, 92.0, 91.0, 13.0, 49.0, 34.0, 40.0, 83.0, 14.0, 53.6),
            ),
            Line(
                method="la_cond",
                training="single",
                figures=(47.0, 33.0, 42.0, 60.0, 32.0, 69.0, 38.0, 10.0, 70.0, 26.0, 42.7),
            ),
            Line(
                method="la_cond",
                training="joint",
                figures=(85.0, 78.0, 97.0, 94.0, 63.0, 80.0, 54.0, 53.0, 93.0, 48.0, 74.5),
            ),
        ),
    ),
    Table(
        number="12",
        title="Weight λ of LA-Tok on RoboTwin 2.0",
        columns=(Column(title="Avg. of four tasks", suites=ROBOTWIN, tasks=_FOUR),),
        rows=tuple(
            Line(method="la_tok", weight=weight, figures=(figure,))
            for weight, figure in ((0.1, 78.0), (0.2, 76.0), (0.5, 76.3))
        ),
    ),
    Table(
        number="Fig. 4",
        title="Manipulation on the real arm (Tables 13 to 17)",
        columns=(
            Column(title="Stack 2", suites=TABLETOP, tasks=("stack_bowls",)),
            Column(title="Stack 3", suites=TABLETOP, tasks=("stack_3_bowls",)),
            Column(title="Stack 4", suites=TABLETOP, tasks=("stack_4_bowls",)),
            Column(title="Wipe", suites=TABLETOP, tasks=("wipe_stain",)),
        ),
        rows=_lines(
            ("baseline", (77.0, 64.0, 48.0, 89.0)),
            ("la_align", (85.0, 76.0, 53.0, 92.0)),
            ("la_direct", (83.0, 88.0, 79.0, 98.0)),
            ("la_cond", (82.0, 70.0, 67.0, 92.0)),
            ("la_tok", (92.0, 83.0, 65.0, 92.0)),
        ),
    ),
    Table(
        number="Fig. 8",
        title="A part of the demonstrations (App. E.1)",
        columns=_LIBERO[2:4],
        rows=(
            Line(method="baseline", fraction=0.33, figures=(78.6, None)),
            Line(method="la_tok", fraction=0.33, figures=(86.5, None)),
            Line(method="baseline", fraction=0.5, figures=(None, 80.0)),
            Line(method="la_tok", fraction=0.5, figures=(None, 94.0)),
        ),
    ),
)
PLACEHOLDERS = {
    "baseline": ("0", "H", 0.0), "la_align": ("0", "H", 1.0), "la_direct": ("P·H", "0", 0.1),
    "la_cond": ("P·H", "H", 0.1), "la_tok": ("H", "0", 0.1),
}  # fmt: skip
"""Table 7: method → latent placeholders, action placeholders, λ."""
TRAINING_HEAD = ("Setting", "LIBERO", "RoboTwin", "JAKA")
TRAINING = {
    "steps": ("80,000", "30,000", "30,000"), "batch_size": ("128", "128", "128"), "learning_rate": ("1e-4",) * 3,
    "decay_steps": ("10,000",) * 3, "decay_factor": ("0.5",) * 3, "chunk_size": ("8", "25", "20"),
}  # fmt: skip
"""Table 8: setting → its values."""
