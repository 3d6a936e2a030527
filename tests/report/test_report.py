from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.errors import UserError
from lvtrain.report import figures, sections, write_report
from lvtrain.report.plots import curve, histogram
from lvtrain.training.log import RunLog

CONFIG = {
    "system": "arae",
    "preset": "tiny",
    "model": {"hidden": 96, "code_noise": {"std": 0.05}, "layers": [96, 96], "tied": False},
    "train": {"steps": 40, "seed": 0},
    "vocab_size": 11_004,
}
STORE = {
    "vocab_size": 11_004,
    "labels": None,
    "splits": {
        "train": {
            "sentences": 5_000,
            "oov_rate": 0.01,
            "dropped": {"too_long": 12, "empty": 0},
            "lengths": {3: 1_000, 4: 4_000},
        },
        "valid": {"sentences": 7, "oov_rate": 0.02, "dropped": {}, "lengths": {}},
    },
    "frequent": (("the", 812), ("<b>", 2)),
}
EVIL = "<script>alert('&')</script>"
VOID = {"meta", "use", "br"}


class Page(HTMLParser):
    """Reads a page strictly: its text, its elements, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", [], []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_run(folder: Path, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in ({"config": CONFIG} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def full_run(folder: Path) -> Path:
    run = make_run(
        folder,
        evaluation={"reverse_perplexity": 82.23, "real_perplexity": 27.41, "lm": {"bleu": 31}},
        interpolations=[["a dog runs .", "a cat runs .", "a cat sings ."]],
        reconstructions=[["a dog runs .", "a dog sings ."], {"source": "x", "reconstruction": "x"}],
    )
    (run / "samples.txt").write_text("".join(f"sentence {n} .\n" for n in range(60)) + EVIL)
    with RunLog(run, total_steps=40, every=2, display="none", tensorboard=False) as log:
        for step in range(1, 41):
            log.step(step, 50, {"reconstruction": 4 / step, "generated_norm": math.nan})
            if step % 10 == 0:
                log.validation(step, {"reconstruction": 5 / step + 0.1}, best=step == 30)
    return run


def read(run: Path, **options: Any) -> Page:
    return Page(write_report(run, **options).read_text(encoding="utf-8"))


def test_the_page_tells_the_whole_run(tmp_path: Path) -> None:
    page = read(full_run(tmp_path / "captions-arae"), store=STORE)
    for said in [
        "captions-arae",
        "step 40 of 40",
        "2,000 words seen",
        "preset tiny",
        "Reverse perplexity",
        "82.23",
        "real text: 27.41",
        "lm · BLEU",
        "reconstruction, at step 30",
        "sentence 59 .",
        "code_noise.std",
        "96, 96",
        "11,004",
        "12 too long",
        "the 812",
    ]:
        assert said in page.text, said
    sections = "Evaluation Curves Samples Interpolations Reconstructions Data Configuration"
    assert [section for section in sections.split() if section in page.text] == sections.split()
    assert page.tags.count("svg") == 4
    assert "best validation" in page.text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    page = read(run, store=STORE)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    linked = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert linked and all(value and value.startswith("#") for value in linked)
    text = (run / "report.html").read_text()
    assert "http" not in text and "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "prefers-color-scheme: dark" in text


def test_every_reference_within_the_page_has_its_target(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    page = read(run, store=STORE)
    text = (run / "report.html").read_text()
    ids = {value for name, value in page.attributes if name == "id"}
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= ids
    assert {v[1:] for n, v in page.attributes if n.endswith("href") and v} <= ids


def test_nothing_a_run_says_becomes_markup(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "<u>run",
        config={"system": EVIL, EVIL: {EVIL: EVIL}, "train": EVIL},
        evaluation={EVIL: EVIL},
        interpolations=[[EVIL, EVIL + " x"]],
        reconstructions=[[EVIL, EVIL + " y"]],
    )
    (run / "samples.txt").write_text(EVIL)
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1, EVIL: 1.0})
        + "\n"
        + json.dumps({"kind": "validation", "step": 1, EVIL: 2.0})
        + "\n"
    )
    store = {EVIL: EVIL, "splits": {EVIL: {EVIL: EVIL, "dropped": {EVIL: 1}}}}
    page = read(run, store=store)
    assert not {"script", "u"} & set(page.tags)
    assert page.text.count("alert(") > 10


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    assert "Configuration" in page.text
    assert not any(f"#{name}" in dict(page.attributes).values() for name in ("curves", "samples"))
    assert "svg" not in page.tags


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run, out=tmp_path / "again.html").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.html", "run"]


def test_an_evaluation_may_lie_in_another_folder(tmp_path: Path) -> None:
    run, other = full_run(tmp_path / "run"), tmp_path / "other"
    make_run(other, evaluation={"reverse_perplexity": 12.25}, interpolations=[["here", "there"]])
    (other / "samples.txt").write_text("another sample\n")
    page = read(run, evaluated=other, out=other / "report.html")
    assert "12.25" in page.text and "another sample" in page.text and "there" in page.text
    assert "82.23" not in page.text and "sentence 59" not in page.text
    assert "step 40 of 40" in page.text
    assert not (run / "report.html").exists()


def test_a_page_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(UserError, match=r"while writing .*report\.html"):
        write_report(run)
    assert sorted(p.name for p in run.iterdir()) == ["config.json", "report.html"]


def test_without_a_mark_the_lowest_validation_is_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RunLog(run, total_steps=9, display="none", tensorboard=False) as log:
        for step, value in [(1, 3.0), (2, 1.5), (3, math.nan), (4, 2.0)]:
            log.validation(step, {"perplexity": value})
    assert "perplexity, at step 2" in read(run).text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config", "[]", "not a run: there is no config.json"),
        ("config", "{", "config.json: not JSON"),
        ("evaluation", "{'a': 1}", "evaluation.json: not JSON"),
        ("interpolations", '["a"]', "interpolations.json: expected a list of lists"),
        ("reconstructions", '[["a"]]', "reconstructions.json: expected a list of pairs"),
        ("reconstructions", '{"a": 1}', "reconstructions.json: expected a list of pairs"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name, content, said) -> None:
    run = make_run(tmp_path / "run")
    (run / f"{name}.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(said)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "file").write_text("a")
    with pytest.raises(UserError, match="^file exists while writing"):
        write_report(run, out=tmp_path / "file" / "report.html")


def test_a_page_makes_the_folder_that_it_goes_to(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run"), out=tmp_path / "new" / "one" / "page.html")
    assert page.is_file()


values = st.one_of(st.none(), st.floats(-1e12, 1e12), st.just(0.0))


@given(st.lists(values, max_size=60), st.lists(values, max_size=5))
@settings(max_examples=15, deadline=None)
def test_any_curve_can_be_drawn(train: list[float | None], held: list[float | None]) -> None:
    points, validated = list(enumerate(train)), [(10.0 * n, v) for n, v in enumerate(held)]
    svg = curve("a <name>", points, validated, best=0.0 if held else None, last=70)
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert "<name>" not in svg and "#0101" not in svg


def test_a_long_curve_stays_small() -> None:
    points = [(float(step), math.sin(step / 9_000)) for step in range(100_000)]
    assert len(curve("loss", points)) < 40_000


def test_a_plot_takes_its_colours_from_the_page() -> None:
    svg = histogram("lengths", {3: 5, 4: 9, 5: 2})
    assert "var(--train)" in svg and "#0101" not in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.91234, "0.912"),
        (82.234, "82.23"),
        (3412.7, "3,413"),
        (100_000, "100,000"),
        (1e-5, "1e-05"),
        (0.0, "0.000"),
        (math.inf, "—"),
        (None, "—"),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_figures_have_the_decimals_they_deserve(value: object, text: str) -> None:
    assert figures.value(value) == text


def test_an_unknown_figure_is_called_by_its_name() -> None:
    assert figures.label("valid.iw_nll") == "valid · IW NLL"
    assert figures.note("new_thing") == "" and figures.direction("new_thing") == ""


def test_how_the_figures_of_a_translator_were_made_is_no_row_of_figures() -> None:
    context = {"sentences": 1_000, "bleu_signature": "nrefs:1", "chrf_signature": "nc:6"}
    context |= {"step": 900, "baseline_step": 700}
    facts, table = sections.evaluation({"bleu": 30.0, "chrf": 55.0, **context}).split("<table>")
    assert table.count("<tr>") == 2
    assert "sentences 1,000" in facts and "chrf signature nc:6" in facts
    assert "baseline step 700" in facts
