"""`lvtrain translate` and what else is asked of a translator's run."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lvtrain
from lvtrain.cli import run as lvtrain_run
from lvtrain.errors import UserError
from lvtrain.evaluation.translation import scores
from lvtrain.grammar.grammar import Grammar
from lvtrain.model import Model
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.text.sources import Sentences
from lvtrain.training import checkpoint

Ask = Callable[..., str]
Runs = dict[str, Path]
SOURCES = ["the boys smile at the stove", "", "a girl gladly brushes her cow", "   ", "the chef"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Standard input with a text."""

    def give(text: str) -> None:
        stream = SimpleNamespace(buffer=io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stream)

    return give


@pytest.mark.parametrize("preset", ["tiny", "tiny-transformer"])
def test_a_line_comes_out_for_each_line_in_and_empty_ones_stay_in_place(
    translators: Runs, said: Ask, typed: Callable[[str], None], preset: str
) -> None:
    typed("\n".join(SOURCES) + "\n")
    lines = said("translate", translators[preset]).split("\n")
    assert len(lines) == len(SOURCES) + 1 and lines[-1] == ""
    assert [bool(line) for line in lines[:-1]] == [True, False, True, False, True]
    alone = said("translate", translators[preset], SOURCES[2])
    assert alone == lines[2] + "\n"


def test_no_line_in_is_no_line_out(
    translators: Runs, said: Ask, typed: Callable[[str], None]
) -> None:
    typed("")
    assert said("translate", translators["tiny"]) == ""


def test_the_n_best_come_with_their_scores(translators: Runs, said: Ask) -> None:
    ask = ("translate", translators["tiny"], *SOURCES[:3], "--beam", "4", "--nbest", "3")
    records = [json.loads(line) for line in said(*ask, "--json").splitlines()]
    assert [record["source"] for record in records] == SOURCES[:3]
    assert [len(record["translations"]) for record in records] == [3, 1, 3]
    assert records[1]["translations"][0]["text"] == ""
    assert repr(records[1]["translations"][0]["score"]) == "0.0"
    for record in (records[0], records[2]):
        scores = [t["score"] for t in record["translations"]]
        assert scores == sorted(scores, reverse=True)
        assert all(t["log_prob"] <= t["score"] < 0 for t in record["translations"])
    lines = said(*ask).splitlines()
    assert lines[0].startswith("1 ||| ") and lines[-1].startswith("3 ||| ") and len(lines) == 7
    assert said(*ask[:-2]) == "".join(f"{r['translations'][0]['text']}\n" for r in records)


def test_draws_follow_from_the_seed(translators: Runs, said: Ask) -> None:
    ask = ("translate", translators["tiny"], SOURCES[0], "--sample", "--nbest", "5", "--beam", "5")
    assert said(*ask) == said(*ask)
    assert said(*ask) != said(*ask, "--seed", "1")
    assert len(said(*ask[:-3], "10").splitlines()) == 10, "draws are not bound by a beam"
    cold = {line.split(" ||| ")[1] for line in said(*ask, "--temperature", "1e-6").splitlines()}
    greedy = said("translate", translators["tiny"], SOURCES[0], "--beam", "1").strip()
    assert cold == {greedy}


def test_a_line_too_long_is_translated_in_pieces_or_refused(
    translators: Runs,
    said: Ask,
    refused: Ask,
    typed: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Model.load(translators["tiny"])
    longest = model.config.max_words
    line = " ".join(["boys"] * (longest - 1) + [","] + ["girls"] * 3)
    whole = said("translate", translators["tiny"], line).strip()
    parts = [" ".join(["boys"] * (longest - 1) + [","]), "girls girls girls"]
    assert whole == " ".join(model.translate(parts))
    message = refused("translate", translators["tiny"], "boys", line, "--long", "refuse")
    assert f"error: sentence 2: expected at most {longest} words" in message
    assert f"found {longest + 3}" in message
    typed(f"boys\n{line}\ngirls\n")
    capsys.readouterr()
    assert lvtrain_run(["translate", str(translators["tiny"]), "--long", "refuse"]) == 2
    found = capsys.readouterr()
    assert found.out.splitlines() == model.translate(["boys"]), "the lines before are written"
    assert f"error: standard input: line 2: expected at most {longest} words" in found.err
    assert f"found {longest + 3}" in found.err


def test_mistakes_are_one_line(translators: Runs, runs: Runs, refused: Ask) -> None:
    run = translators["tiny"]
    assert "--nbest: expected at most the --beam 2" in refused(
        "translate", run, "a", "--beam", "2", "--nbest", "3"
    )
    assert "--beam" in refused("translate", run, "a", "--beam", "0")
    assert "--temperature 0.5: expected with --sample" in refused(
        "translate", run, "a", "--temperature", "0.5"
    )
    assert "--seed 1: expected with --sample" in refused("translate", run, "a", "--seed", "1")
    for flag, value in ("--beam", "8"), ("--length-penalty", "3.0"), ("--coverage-penalty", "9.0"):
        assert f"{flag} {value}: expected without --sample" in refused(
            "translate", run, "a", "--sample", flag, value
        )
    assert "--translate.beam 8: expected without --translate.sample" in refused(
        "evaluate", run, "--translate.sample", "--translate.beam", "8"
    )
    assert "--translate.nbest 4: expected 1" in refused("evaluate", run, "--translate.nbest", "4")
    assert "--draws: expected 0 to 1,000" in refused("evaluate", run, "--draws", "1001")
    assert "config.json: expected the folder of a run, found a file" in refused(
        "translate", run / "config.json"
    )
    assert "not a run" in refused("translate", run.parent, "a")
    assert "'lm' does not translate" in refused("translate", runs["lm"], "a")
    assert "lvtrain translate" in refused("generate", run)
    assert "lvtrain translate" in refused("reconstruct", run, "a")
    assert "expected as many checkpoints" in refused("translate", run, "a", "--average", "9")
    assert "does not translate" in refused("evaluate", run, "--baseline", runs["lm"])
    assert "--baseline" in refused("evaluate", runs["lm"], "--baseline", run)


def test_the_parameters_of_checkpoints_are_averaged(translators: Runs) -> None:
    run = translators["tiny"]
    steps = checkpoint.steps(run / "checkpoints")[-2:]
    each = [Model.load(run, step).system for step in steps]
    mean = Model.load(run, average=2)
    assert mean.step == steps[-1]
    parameters = [dict(model.named_parameters()) for model in (*each, mean.system)]  # type: ignore[attr-defined]
    for name, value in parameters[2].items():
        torch.testing.assert_close(value, (parameters[0][name] + parameters[1][name]) / 2)


def test_an_exported_translator_says_what_the_run_says(
    translators: Runs, tmp_path: Path, said: Ask
) -> None:
    for name, run in translators.items():
        said("export", run, "--out", tmp_path / name, "--average", "2")
        exported = lvtrain.load(tmp_path / name)
        assert exported.translate(SOURCES) == Model.load(run, average=2).translate(SOURCES)
        with pytest.raises(UserError, match="no checkpoints to average"):
            Model.load(tmp_path / name, average=2)


def test_figures_of_averaged_parameters_say_so(
    translators: Runs, tmp_path: Path, said: Ask
) -> None:
    run, out = translators["tiny"], tmp_path / "figures"
    ask = ("evaluate", run, "--draws", "0", "--out", out)
    first = ["step", "averaged", "split", "sentences"]
    lines = [line.split() for line in said(*ask, "--average", "2").splitlines()]
    assert [line[0] for line in lines[:4]] == first and lines[1] == ["averaged", "2"]
    figures = json.loads((out / "evaluation.json").read_text())
    assert list(figures)[:4] == first and figures["averaged"] == 2
    assert "<span>averaged 2</span>" in (out / "report.html").read_text()
    assert "averaged" not in json.loads(said(*ask, "--json"))
    said("export", run, "--out", tmp_path / "model", "--average", "2")
    assert json.loads(said("inspect", tmp_path / "model", "--json"))["averaged"] == 2
    again = json.loads(said("evaluate", tmp_path / "model", "--draws", "0", "--json"))
    assert again == figures


def test_evaluate_measures_and_compares(translators: Runs, said: Ask) -> None:
    run, other = translators["tiny"], translators["tiny-transformer"]
    ask = ("evaluate", run, "--baseline", other, "--draws", "3", "--sources", "5", "--json",
           "--translate.beam", "3")  # fmt: skip
    figures = json.loads(said(*ask))
    assert {"bleu", "chrf", "valid", "precision", "coverage", "bleu_p"} <= figures.keys()
    assert "tok:none" in figures["bleu_signature"] and figures["chrf_signature"]
    assert figures["sentences"] == 60 and all(
        math.isfinite(value) for value in figures.values() if isinstance(value, float)
    )
    theirs = json.loads(said("evaluate", other, "--draws", "0", "--json", *ask[-2:]))
    assert figures["baseline_bleu"] == pytest.approx(theirs["bleu"])
    assert figures["baseline_step"] == theirs["step"]
    triples = json.loads((run / "translations.json").read_text())
    assert all(len(triple) == 3 for triple in triples)
    assert "Translations" in (run / "report.html").read_text()
    rows = (run / "translations.tsv").read_text().splitlines()
    every = [row.split("\t") for row in rows]
    assert len(every) == 60 and all(triple in every for triple in triples)
    sources, references = [source for source, _, _ in every], [real for _, real, _ in every]
    model = Model.load(run)
    assert model.target_tokenizer and model.translate(sources, beam=3) == [
        translation for _, _, translation in every
    ]
    of_valid = zip(*Grammar().sample_pairs(660, seed=0)[600:], strict=True)
    as_known = [
        tokenizer.decode_batch(tokenizer.encode_batch(lines))
        for tokenizer, lines in zip(
            (model.tokenizer, model.target_tokenizer), of_valid, strict=True
        )
    ]
    assert sorted(zip(sources, references, strict=True)) == sorted(zip(*as_known, strict=True))
    assert (run / "samples.txt").read_text().splitlines() == [row[2] for row in every]


def test_a_baseline_of_other_words_is_told_of(
    translators: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, targets = zip(*Grammar().sample_pairs(40, seed=1), strict=True)
    pairs = Sentences(texts=texts, targets=targets)
    prepare_sentences(pairs, config=PrepareConfig(), out=tmp_path / "store")
    lvtrain.train("seq2seq", tmp_path / "store", tmp_path / "other", preset="tiny", steps=1,
                  batch_size=8, validate_every=0, tensorboard=False)  # fmt: skip
    for baseline, said in (("other", True), ("tiny", False)):
        folder = translators.get(baseline, tmp_path / baseline)
        argv = ["evaluate", translators["tiny-transformer"], "--baseline", folder, "--draws", "0",
                "--out", tmp_path / "figures"]  # fmt: skip
        assert lvtrain_run([str(a) for a in argv]) == 0
        warned = [w for w in capsys.readouterr().err.splitlines() if "--baseline" in w]
        assert [f"--baseline {folder}: has other vocabularies" in w for w in warned] == [
            True
        ] * said


def test_sentences_that_were_dropped_as_too_long_are_counted(tmp_path: Path, said: Ask) -> None:
    texts, targets = zip(*Grammar().sample_pairs(60, seed=1), strict=True)
    long = Sentences(texts=(*texts[:9], "a " * 90), targets=(*targets[:9], "b"))
    pairs = Sentences(texts=texts, targets=targets)
    prepare_sentences(pairs, long, config=PrepareConfig(max_words=50), out=tmp_path / "store")
    lvtrain.train("seq2seq", tmp_path / "store", tmp_path / "run", preset="tiny", steps=1,
                  batch_size=8, validate_every=0, tensorboard=False)  # fmt: skip
    figures = json.loads(said("evaluate", tmp_path / "run", "--draws", "0", "--json"))
    assert (figures["sentences"], figures["dropped_too_long"]) == (9, 1)


def test_figures_of_a_small_vocabulary_are_those_against_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, targets = zip(*Grammar().sample_pairs(120, seed=3), strict=True)
    pairs = Sentences(texts=texts, targets=targets)
    prepare_sentences(
        pairs, pairs, config=PrepareConfig(vocab_size=80, target_vocab_size=9),
        out=tmp_path / "store",
    )  # fmt: skip
    lvtrain.train("seq2seq", tmp_path / "store", tmp_path / "run", preset="tiny", steps=60,
                  batch_size=32, validate_every=0, tensorboard=False)  # fmt: skip
    model = lvtrain.load(tmp_path / "run")
    written = dict(zip(texts, model.translate(texts, beam=5), strict=True))
    assert any("<unk>" in line for line in written.values()), "or there is nothing to see"
    capsys.readouterr()
    assert lvtrain_run(["evaluate", str(tmp_path / "run"), "--draws", "0", "--json"]) == 0
    found = capsys.readouterr()
    figures = json.loads(found.out)
    assert figures["bleu"] == pytest.approx(scores(list(written.values()), targets)["bleu"])
    words = " ".join(targets).split()
    known = set(model.target_tokenizer.words)
    assert figures["unknown_words"] == sum(w not in known for w in words) / len(words)
    assert f"{100 * figures['unknown_words']:.3g} % of the words of the references" in found.err
    assert 0 < figures["known_sources"] < 1
    triples = json.loads((tmp_path / "run" / "translations.json").read_text())
    assert any("<unk>" in reference for _, reference, _ in triples)


def test_a_flag_that_says_nothing_of_a_system_is_refused(
    translators: Runs, runs: Runs, refused: Ask
) -> None:
    assert "--samples: not of a translator" in refused(
        "evaluate", translators["tiny"], "--samples", "9"
    )
    message = "--draws: not of a system that does not translate"
    assert message in refused("evaluate", runs["lm"], "--draws", "9")


def test_a_damaged_newest_checkpoint_is_a_line_and_no_hindrance(
    translators: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(translators["tiny"], tmp_path / "run"))
    weights = copy / "checkpoints/step-00000060/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert lvtrain_run(["translate", str(copy), SOURCES[0]]) == 0
    found = capsys.readouterr()
    expected = lvtrain.load(translators["tiny"], 45).translate(SOURCES[:1])
    assert found.out.splitlines() == expected
    (line,) = found.err.splitlines()
    assert line.startswith(f"lvtrain: warning: {copy}: step-00000060 is damaged: ")
    assert line.endswith("; using step-00000045")


def test_lines_are_translated_when_they_come_and_those_before_a_bad_one_are_kept(
    translators: Runs,
) -> None:
    program = [sys.executable, "-m", "lvtrain", "translate", str(translators["tiny"])]
    whole = [SOURCES[0], SOURCES[2], SOURCES[4]]
    expected = [lvtrain.load(translators["tiny"]).translate([line])[0] for line in whole]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"\xef\xbb\xbf" + f"{whole[0]}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == f"{expected[0]}\n", "before the input ends"
        process.stdin.write(f"{whole[1]}\n{whole[2]}\nthe \0 boy\nthe boy\n".encode())
        process.stdin.close()
        assert process.stdout.read().decode().splitlines() == expected[1:]
        said = process.stderr.read().decode()
        assert said == "lvtrain: error: standard input: line 4 holds a zero byte, expected text\n"
    assert process.returncode == 2


def test_python_is_told_of_what_it_cannot_ask_for(translators: Runs, runs: Runs) -> None:
    model = lvtrain.load(translators["tiny"])
    for given in ("ein mann", 3, [3], None, [b"a"]):
        with pytest.raises(UserError, match=r"expected (a list of )?sentences, found"):
            model.translate(given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unknown setting 'beem' .did you mean 'beam'.*nbest"):
        model.translate(["a"], beem=3)
    with pytest.raises(UserError, match="nbest: .*translations"):
        model.translate(["a"], nbest=2)
    every = model.translations([SOURCES[0]], nbest=2)
    assert len(every[0]) == 2 and model.translate(SOURCES[:1]) == [every[0][0].text]
    mean = lvtrain.load(translators["tiny"], average=2)
    assert mean.averaged == 2
    other = lvtrain.load(runs["ae"])
    for method in (other.encode, other.reconstruct, other.decode):
        with pytest.raises(UserError, match="expected (a list of sentences|codes of)"):
            method("the boy")  # type: ignore[operator]
    with pytest.raises(UserError, match="unknown setting 'temprature'.*'temperature'"):
        other.generate(1, temprature=1)
