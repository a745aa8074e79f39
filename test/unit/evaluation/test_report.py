"""The pages: whole, self-contained, and with every figure in its place."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_results import episode, results

from sim_bridges.evaluation.compare import compare
from sim_bridges.evaluation.report import write_comparison, write_report
from sim_bridges.evaluation.results import Results
from sim_bridges.files import write_json
from sim_bridges.paper.methods import METHODS, method_of
from sim_bridges.paper.published import TABLES
from sim_bridges.paper.tables import PAPER, our_figures, paper_tables

VOID = {"meta", "rect", "line", "br"}
PRINTED = Path(__file__).parents[4] / "shared" / "paper.txt"


class Reader(HTMLParser):
    """Fails on an element that is not closed; collects text, tables and what is loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for key, value in attrs if key in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


def test_a_report_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not really a video")
    some = results([True] * 8 + [False, None], method="la_direct")
    write_report(
        tmp_path / "report.html",
        some,
        title="A <title>",
        reproduce="lavla eval x",
        videos={0: tmp_path / "clip.mp4"},
        published=PAPER,
    )
    page = Reader((tmp_path / "report.html").read_text())
    words = " ".join(page.words)
    assert all(link.startswith("data:video/mp4;base64,") for link in page.loads) and len(page.loads) == 1
    for expected in (
        "A <title>",
        "89%",
        "8 of",
        "Wilson 95% interval",
        "1 in error",
        "Not comparable: stand-ins.",
        "worker <killed>",
        "lavla eval x",
        some.fingerprint,
        "Episode lengths",
        "36 inferences",
        "15 files of them stand-ins",
    ):
        assert expected in words, expected
    assert page.row("LA-Direct")[2].startswith("98.688.9 (8/9")  # the paper's figure, ours below it
    assert page.row("LA-Align")[2] == "98.6"


def test_a_live_report_claims_neither_repetition_nor_speed_nor_a_limit_that_it_does_not_know(tmp_path: Path) -> None:
    shown = {}
    for live in (False, True):
        some = results([True, False], wall_s=10.0, simulated_s=30.0, live=live, settings={})
        write_report(tmp_path / "r.html", some, title="t", reproduce="c")
        shown[live] = " ".join(Reader((tmp_path / "r.html").read_text()).words)
        assert "fails at" not in shown[live]
        write_json(tmp_path / "results.json", some.to_dict())
        assert Results.read(tmp_path).live is live
    assert "bit for bit" in shown[False] and "3.0 × real time" in shown[False]
    assert "bit for bit" not in shown[True] and "real time" not in shown[True] and some.fingerprint not in shown[True]


def test_there_is_no_column_of_inference_times_without_any(tmp_path: Path) -> None:
    some = results([True, False])
    for timed in (some, replace(some, episodes=tuple(replace(e, latency_ms={}) for e in some.episodes))):
        write_report(tmp_path / "r.html", timed, title="t", reproduce="c")
        words = " ".join(Reader((tmp_path / "r.html").read_text()).words)
        assert ("p50 / p99" in words) is any(e.latency_ms for e in timed.episodes)


def test_an_average_of_ours_needs_all_four_suites() -> None:
    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    four = [results([True, i % 2 == 0], suite=suite) for i, suite in enumerate(suites)]
    assert Reader(paper_tables(four)).row("Baseline")[5] == "93.175.0"
    assert Reader(paper_tables(four[:3])).row("Baseline")[5] == "93.1"
    assert paper_tables([results([True], suite="tabletop")]) == ""
    assert "no row of its tables is ours" in paper_tables([results([True], method="")])
    ninety = paper_tables([results([True], suite="libero_90")])
    assert "no row" in ninety and "Table 10" in ninety


def test_several_tasks_each_with_their_interval(tmp_path: Path) -> None:
    episodes = tuple(episode(i, success=i < 3, task=f"task {i % 2}") for i in range(4))
    write_report(tmp_path / "r.html", replace(results([]), episodes=episodes), title="t", reproduce="c")
    page = Reader((tmp_path / "r.html").read_text())
    assert page.row("task 0")[1] == "2/2 (100%)34.2% to 100.0%"
    assert page.row("task 1")[1].startswith("1/2 (50%)")


def test_what_went_wrong_comes_first_and_a_histogram_needs_many_episodes(tmp_path: Path) -> None:
    pages = {}
    for count in (4, 20):
        some = results([True, False, None, *[True] * (count - 2)])  # one is in error
        write_report(tmp_path / "r.html", some, title="t", reproduce="c")
        pages[count] = (tmp_path / "r.html").read_text()
    rows = [row for row in Reader(pages[4]).rows if row and row[0].isdigit()]
    assert [row[0] for row in rows][:3] == ["2", "1", "0"]
    assert "<svg" not in pages[4] and "<svg" in pages[20]


def test_a_report_without_a_scored_episode(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", results([None]), title="t", reproduce="c")
    assert "no episode was scored" in " ".join(Reader((tmp_path / "r.html").read_text()).words)


def test_a_page_that_compares(tmp_path: Path) -> None:
    left, right = results([False] * 6 + [True] * 2), results([True] * 8, method="la_tok", policy="q")
    write_comparison(
        tmp_path / "c.html",
        [left, right],
        ["old", "new"],
        [compare(left, right, names=("old", "new"))],
        reproduce="c",
        published=PAPER,
    )
    page = Reader((tmp_path / "c.html").read_text())
    assert "new is better" in " ".join(page.words)
    assert page.row("all")[1:] == ["8", "25%", "100%", "0", "6", "0.031"]
    assert "The 6 pairs that differ" in page.words
    assert page.row("a task")[1:] == ["state 0", "0", "failure", "0", "success"]
    assert page.row("Baseline")[2].startswith("97.225.0") and page.row("LA-Tok")[2].startswith("100.0100.0")


@pytest.mark.skipif(not PRINTED.exists(), reason="the paper is not beside the checkout")
@pytest.mark.parametrize("number", ["1", "4 (left)", "4 (right)", "5", "6", "9", "10"])
def test_the_printed_figures_are_the_papers(number: str) -> None:
    text = PRINTED.read_text()
    section = text[text.index(f"\nTable {number.split()[0]}: ") :][:2600]
    (table,) = (each for each in TABLES if each.number == number)
    for line_ in table.rows:
        method, figures = line_.method, line_.figures
        name = METHODS[method].replace(" (", r"\s*\(").replace(")", r"\)").replace("-", r"\-")
        line = re.search(rf"^{name}[ (]?\s*(\d.*)$", section, re.MULTILINE)
        assert line is not None, method
        # What the table prints in parentheses is the change against the baseline.
        printed = [float(value) for value in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\([^)]*\)", " ", line[1]))]
        assert tuple(printed) == figures, method


@pytest.mark.parametrize(
    ("strategy", "method"),
    [
        ({"name": "baseline", "options": {}}, "baseline"),
        ({"name": "baseline", "options": {"placeholders": "PH-Cond"}}, "ph_cond"),
        ({"name": "la_align"}, "la_align"),
        ({"name": "la_align", "options": {"align_layer": "early"}}, "la_align_early"),
        ({"name": "la_align", "options": {"align_layer": 9}}, ""),
        ({"name": "la_align", "options": {"align_layer": "early", "weight": 20}}, ""),
        ({"name": "la_align", "options": {"target": "code"}}, ""),
        ({"name": "la_tok", "options": {"weight": 0.5}}, ""),
        ({"name": "la_tok", "options": {"weight": 0.1, "codebook": 256}}, "la_tok"),
        ({"name": "la_direct", "options": {"tokens": 2}}, ""),
        ({"name": "la_direct", "options": {"continuous": True}}, "la_direct_continuous"),
        ({"name": "la_cond", "options": {"continuous": True}}, ""),
        ({"name": "la_tok", "options": {"continuous": False}}, "la_tok"),
        ({"name": "mine"}, "mine"),
        ({"name": "", "options": {}}, ""),
        (None, ""),
    ],
)
def test_the_row_that_a_checkpoint_belongs_to(strategy: object, method: str) -> None:
    assert method_of({"strategy": strategy}) == method


def test_the_row_depends_on_what_taught_the_policy_and_on_the_layer_whatever_its_name() -> None:
    def method(strategy: str, options: dict[str, object], weight: float | None = None) -> str:
        made = {"settings": {} if weight is None else {"action_weight": weight}}
        policy = {"backbone": {"kind": "pretrained"}, "strategy": {"name": strategy, "options": options}}
        return method_of(policy, {"labels": {"data/libero": {"image": made}}})

    assert method("la_direct", {}) == method("la_direct", {}, 1.0) == "la_direct"
    assert method("la_direct", {}, 0.0) == "la_direct_vision"  # Table 6
    assert method("la_align", {"align_layer": 17}, 0.0) == "la_align_vision"
    assert method("la_align", {"align_layer": 28}) == "la_align_final"
    assert method("la_direct", {"continuous": True}, 0.0) == "", "no table has it"


def test_seeds_of_a_method_stand_together_and_no_result_hides_another() -> None:
    def seed(name: str, successes: int):
        outcomes = [True] * successes + [False] * (8 - successes)
        return replace(results(outcomes, policy=name), settings={"policy_hash": name})

    ours = our_figures([seed("a", 8), seed("b", 2), seed("c", 4), seed("a", 6)])
    (tallies,) = ours["baseline"].values()
    assert [tally.successes for tally in tallies] == [6, 2, 4], "one policy evaluated twice counts once"
    page = paper_tables([seed("a", 6), seed("b", 2), seed("c", 4)])
    assert "50.0 <small>(± 25.0 of 3 policies, 25–75)</small>" in page
