# SPDX-License-Identifier: Apache-2.0
"""The HTML report: well formed, alone in the world, harmless, and with the run's own numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_summaries import sft_summary, t3s_summary, write

from t3s_megatron.cli import main
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.data.teachers import load_training_records, parts_of
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.monitor import tokens as monitor_tokens
from t3s_megatron.monitor import traces
from t3s_megatron.monitor.page import ReportedRun, page
from tests.support.task import write_task

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Every element with what encloses it; ValueError where they are not balanced."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, dict, str]] = []
        self.feed(source)
        self.close()
        if self.open:
            raise ValueError(f"never closed: {self.open}")

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            raise ValueError(f"</{tag}> within {self.open[-3:]}")
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.append((*self.open[-1], data))

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}

    @property
    def said(self) -> str:
        return " ".join(text for name, _, text in self.texts if name != "style")

    def inside(self, name: str) -> list[tuple[dict, str]]:
        return [(attributes, text) for tag, attributes, text in self.texts if tag == name]


def of(*summaries: dict) -> Page:
    runs = [ReportedRun(f"{n}/summary.json", s, None, "why") for n, s in enumerate(summaries)]
    return Page(page(runs))


def test_a_diffusion_run_shows_what_fell_and_its_losses():
    steps = [
        {"step": n, "loss_fell": 1 / n, "loss_forced": 1 / n, "loss_other": 0.5, "masked": 9}
        for n in (1, 2, 3)
    ]
    targeting = {
        "forced_tokens": 7,
        "forced_share": 0.07,
        "fell_share_by_tau": {"0": 0.5, "0.2": 0.07},
    }
    plain = of(sft_summary())
    made = of(sft_summary() | {"masked_losses": steps, "targeting": targeting})
    assert "fell in the selector" in made.said and "fell in the selector" not in plain.said
    assert "7 (7.0%)" in made.said and "fell at tau 0.2" in made.said
    assert "masked at random" not in made.said, "the others are those that did not fall"
    at_random = [step | {"loss_forced": 0.7, "loss_random": 0.6} for step in steps]
    of_random = of(sft_summary() | {"masked_losses": at_random, "targeting": targeting})
    assert "masked at random" in of_random.said
    # Without a selector there is nothing to tell apart.
    del steps[0]["loss_fell"], steps[1]["loss_fell"], steps[2]["loss_fell"]
    for step in steps:
        del step["loss_other"], step["loss_forced"]
        step["loss_random"] = 0.5
    alone = of(sft_summary() | {"masked_losses": steps})
    assert "masked at random" in alone.said and "fell in the selector" not in alone.said


def test_tokens_a_forward_are_shown_where_a_forward_sets_several():
    summary = sft_summary()
    assert "tokens a forward" not in of(summary).said
    for measured in summary["measurements"]:
        measured |= {"forwards": 8, "tokens_per_forward": 1.25}
    shown = of(summary)
    assert "tokens a forward" in shown.said
    assert [text for _, text in shown.inside("td")].count("1.25") == len(summary["measurements"])


# ------------------------------------------------------------------------ a run with stores


class Made:
    """A finished run in a folder: data, tokenizer, summary, stores and selection."""

    def __init__(self, folder: Path, seed: int = 0):
        self.data, self.tokenizer = write_task(str(folder / "task"))
        records = load_training_records((self.data,))
        self.corpus = Corpus.build(records, load_tokenizer(self.tokenizer), seq_length=10**6)
        rng = np.random.default_rng(seed)
        n = self.corpus.n_targets
        self.c_0 = -rng.exponential(1.0, n).astype(np.float32)
        self.c_b = (self.c_0 + rng.normal(0.0, 1.0, n)).astype(np.float32)
        self.keep = self.c_b - self.c_0 <= 0
        self.folder = folder / "t3s"
        for tag, c in (("theta_0", self.c_0), ("theta_b", self.c_b)):
            path = str(self.folder / f"c_{tag}.safetensors")
            LogProbStore(c, self.corpus, tag, 0).save(path)
        Selection(self.keep, self.corpus, "t3s", 2).save(str(self.folder / "selection.safetensors"))
        self.summary = write(self.folder / "summary.json", t3s_summary())

    def report(self, html: Path, *more: str) -> int:
        words = ["--html", str(html), "--data", self.data, "--tokenizer-model", self.tokenizer]
        return main(["report", self.summary, *words, *more])


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path)


def trace_tokens(shown: Page) -> list[tuple[str, dict, str]]:
    return [entry for entry in shown.texts if entry[0] in ("i", "s") and "title" in entry[1]]


def test_every_token_has_its_log_probs_and_is_struck_out_if_it_is_masked(made, tmp_path):
    assert made.report(tmp_path / "page.html") == 0
    shown = trace_tokens(Page((tmp_path / "page.html").read_text()))
    run = monitor_tokens.read_tokens(
        t3s_summary(), str(made.folder), (made.data,), load_tokenizer(made.tokenizer), None
    )
    expected = []
    for sample in monitor_tokens.chosen_samples(run, traces.TRACES_EACH):
        place = made.corpus.target_slice(sample)
        for c_0, c_b, keep in zip(made.c_0[place], made.c_b[place], made.keep[place], strict=True):
            title = f"θ0 {c_0:.3f}, θb {c_b:.3f}, Δ {c_b - c_0:+.3f}"
            expected.append(("i" if keep else "s", title))
    assert [(name, attributes["title"]) for name, attributes, _ in shown] == expected
    assert len(expected) > 100


def test_a_weight_stands_beside_the_log_probs_of_its_token(made, tmp_path):
    weights = np.where(made.keep, 0.25, 0).astype(np.float32)
    Selection(weights, made.corpus, "t3s-soft", 2).save(str(made.folder / "selection.safetensors"))
    assert made.report(tmp_path / "page.html") == 0
    shown = trace_tokens(Page((tmp_path / "page.html").read_text()))
    said = {name: {attributes["title"][-12:] for n, attributes, _ in shown if n == name}
            for name in "is"}  # fmt: skip
    assert said == {"i": {"weight 0.250"}, "s": {"weight 0.000"}}


def test_colours_are_those_of_delta_c(made, tmp_path):
    made.report(tmp_path / "page.html")
    for _, attributes, _ in trace_tokens(Page((tmp_path / "page.html").read_text())):
        delta = float(attributes["title"].rpartition(" ")[2])
        kind = attributes.get("class")
        if kind is None:
            assert abs(delta) <= traces.LEVELS[0] + 0.001
        else:
            assert (delta > 0) == (kind[0] == "r")
            assert abs(delta) >= traces.LEVELS[int(kind[1]) - 1] - 0.001


def test_the_text_of_a_trace_is_that_of_the_response(made, tmp_path):
    made.report(tmp_path / "page.html")
    shown = "".join(t for _, _, t in trace_tokens(Page((tmp_path / "page.html").read_text())))
    first = json.loads(Path(made.data).read_text().splitlines()[0])
    assert shown.startswith(first["response"] + "<eos>")


def test_the_tokens_that_changed_most(made):
    run = monitor_tokens.read_tokens(
        t3s_summary(), str(made.folder), (made.data,), load_tokenizer(made.tokenizer), None
    )
    ids = [int(t) for s in made.corpus.samples for t in s.tokens[s.is_target]]
    found = monitor_tokens.token_changes(run, 3)
    assert [c.mean_delta for c in found] == sorted((c.mean_delta for c in found), reverse=True)
    for change in found:
        at = [number for number, token in enumerate(ids) if token == change.token]
        assert change.occurrences == len(at) >= 3
        assert change.mean_delta == pytest.approx(float((made.c_b - made.c_0)[at].mean()), abs=1e-5)
        assert change.masked_share == pytest.approx(1 - made.keep[at].mean())
    assert {c.token for c in found} == {token for token in ids if ids.count(token) >= 3}


def test_chosen_are_first_smallest_median_and_largest(made):
    run = monitor_tokens.read_tokens(
        t3s_summary(), str(made.folder), (made.data,), load_tokenizer(made.tokenizer), None
    )
    shares = [1 - made.keep[made.corpus.target_slice(i)].mean() for i in range(24)]
    order = sorted(range(24), key=lambda i: (shares[i], i))
    chosen = list(monitor_tokens.chosen_samples(run, 1))
    largest = sorted(range(24), key=lambda i: (-shares[i], i))[0]
    assert chosen == list(dict.fromkeys([0, order[0], order[12], largest]))


def test_counts_of_the_histogram_are_all_tokens(made, tmp_path):
    made.report(tmp_path / "page.html")
    said = Page((tmp_path / "page.html").read_text()).said
    for name, count in (("masked", (~made.keep).sum()), ("kept", made.keep.sum())):
        assert sum(map(int, re.findall(rf": (\d+) {name} tokens", said))) == count


def test_two_teachers(tmp_path):
    source, tokenizer = write_task(str(tmp_path / "task"))
    lines = [json.loads(line) for line in Path(source).read_text().splitlines()]
    data = tmp_path / "both.jsonl"
    # Alternating, so that neither teacher's targets stand together.
    data.write_text(
        "".join(json.dumps(x | {"teacher": f"t{n % 2}"}) + "\n" for n, x in enumerate(lines))
    )
    records = load_training_records((str(data),))
    corpus = Corpus.build(records, load_tokenizer(tokenizer), seq_length=10**6)
    c = np.linspace(-2, -1, corpus.n_targets).astype(np.float32)
    for part in parts_of(corpus, records):
        for tag, change in (("theta_0", 0.0), ("theta_b", 0.5)):
            path = str(tmp_path / "t3s" / f"{part.file_name(f'c_{tag}')}.safetensors")
            LogProbStore(c[part.targets] + np.float32(change), part.corpus, tag, 0).save(path)
    run = monitor_tokens.read_tokens(
        t3s_summary(), str(tmp_path / "t3s"), (str(data),), load_tokenizer(tokenizer), None
    )
    assert run.c_0 is not None and run.c_0.tolist() == c.tolist()
    assert run.delta is not None and np.allclose(run.delta, 0.5) and run.keep is None


# ------------------------------------------------------------------------ bounds, bad input


def test_what_is_shown_of_long_traces_is_bounded_and_said(made, tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "PAGE_TOKENS", 120)
    made.report(tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert len(trace_tokens(shown)) <= 120
    assert "at most its first 10 target tokens" in shown.said
    left = sum(int(n) for n in re.findall(r"(\d+) more tokens are not shown", shown.said))
    titles = [text for _, text in shown.inside("summary") if "tokens masked" in text]
    total = sum(int(re.search(r"of (\d+) tokens", title)[1]) for title in titles)
    assert left + len(trace_tokens(shown)) == total


def test_bytes_are_bounded_too(made, tmp_path, monkeypatch):
    made.report(tmp_path / "all.html")
    monkeypatch.setattr(traces, "PAGE_BYTES", 6000)
    made.report(tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert 0 < sum(len(t) + len(a["title"]) for _, a, t in trace_tokens(shown)) < 6000
    assert "more tokens are not shown" in shown.said
    assert "more tokens are not shown" not in (tmp_path / "all.html").read_text()


def test_data_of_another_run_are_refused(made, tmp_path, capsys):
    other = tmp_path / "other"
    data, _ = write_task(str(other), seed=1)
    made.data = data
    assert made.report(tmp_path / "page.html") == 2
    assert "other tokens or targets" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_run_that_cut_samples_needs_its_length(made, tmp_path, capsys):
    cut = t3s_summary(data={"truncated_overlong": 3, "dropped_overlong": 0})
    write(Path(made.summary), cut)
    assert made.report(tmp_path / "page.html") == 2
    assert "--seq-length" in capsys.readouterr().err
    assert made.report(tmp_path / "page.html", "--seq-length", "1000") == 0


@pytest.mark.parametrize(
    "words",
    [["--data", "x"], ["--tokenizer-model", "x"], ["--data", "x", "--tokenizer-model", "x"]],
)
def test_what_goes_together(words, tmp_path, capsys):
    path = write(tmp_path / "a.json", t3s_summary())
    assert main(["report", path, *words]) == 2
    assert "--" in capsys.readouterr().err


def test_without_stores_there_is_a_page_that_says_so(made, tmp_path):
    for file in made.folder.glob("*.safetensors"):
        file.unlink()
    assert made.report(tmp_path / "page.html") == 0
    shown = Page((tmp_path / "page.html").read_text())
    assert "The run has left no stores." in shown.said and not trace_tokens(shown)


def test_a_selection_alone_is_struck_out_without_colours(made, tmp_path):
    for file in made.folder.glob("c_*.safetensors"):
        file.unlink()
    assert made.report(tmp_path / "page.html") == 0
    names = [(n, a) for n, a, _ in Page((tmp_path / "page.html").read_text()).texts if n in "is"]
    assert {n for n, _ in names} == {"i", "s"} and not any(a for _, a in names)


# ------------------------------------------------------------------------ the page alone


HOSTILE = (
    '</script></style><script>alert("1")</script> & <img src=https://e.x/a> \x00\x1b\u202e\ud800'
)


def test_nothing_is_loaded_and_nothing_runs():
    shown = of(t3s_summary(log=[HOSTILE]), sft_summary())
    assert not shown.names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for name, attributes in shown.elements:
        assert not {"src", "srcset", "action"} & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("href", "#").startswith("#"), name
    policy = next(a["content"] for n, a in shown.elements if "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not [text for _, text in shown.inside("style") if "url(" in text or "@import" in text]


def test_text_is_shown_and_not_obeyed():
    changed = {
        "method": HOSTILE,
        "theta_b_reason": HOSTILE,
        "log": [HOSTILE],
        "arguments": {"temperature": 0.6, HOSTILE: HOSTILE},
        "skipped_samples": [{"id": HOSTILE, "what": HOSTILE, "phase": "profile", "step": 1}],
        "versions": {HOSTILE: HOSTILE},
        "teachers": {HOSTILE: {"samples": 1, "theta_b_step": 2, "theta_b_reason": HOSTILE}},
    }
    source = page([ReportedRun(HOSTILE, t3s_summary(**changed), None)])
    shown = Page(source)
    assert "script" not in shown.names and "img" not in shown.names
    assert not set(source) & {"\x00", "\x1b", "\u202e", "\ud800"} and source.encode()
    assert shown.said.count('<script>alert("1")</script>') > 8
    assert "␀␛⟨U+202E⟩⟨U+D800⟩" in shown.said


def test_a_token_that_is_markup(made, tmp_path):
    """The tokens <answer> and <eos> are in every trace."""
    made.report(tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert not shown.names & {"answer", "eos", "assistant"}
    assert "<answer>" in {text for _, _, text in trace_tokens(shown)}


def test_numbers_are_those_of_the_summary():
    evidence = {"measurements": 3, "before": 0.5, "lowest": 0.25, "highest": 0.5,
                "p_fall": 0.5, "p_rise": 0.001}  # fmt: skip
    summary = t3s_summary(theta_b_evidence=evidence)
    shown = of(summary)
    for measured in (*summary["measurements"], *summary["evaluations"]):
        assert f"{measured['accuracy']:.3f} ± {measured['standard_error']:.3f}" in shown.said
    assert "theta_b is step 2: patience 1." in shown.said
    assert "fell from 0.500 to 0.250 (p = 0.5)" in shown.said
    assert "Warning: the fall may be chance" in shown.said
    assert "36.0%" in shown.said and "35.9%" in shown.said


def test_points_stand_where_the_measurements_are():
    shown = of(t3s_summary())
    dots = [float(a["cx"]) for n, a in shown.elements if n == "circle"]
    # Iterations 0 to 3 of the profile; the targeted steps 0 and 4 are iterations 3 and 7.
    left, right = dots[0], dots[-1]
    expected = [left + (right - left) * iteration / 7 for iteration in (0, 1, 2, 3, 3, 7)]
    assert dots == pytest.approx(expected, abs=0.1)
    marks = [a for n, a in shown.elements if a.get("class") == "mark"]
    assert [float(mark["x1"]) for mark in marks] == pytest.approx([expected[2]], abs=0.1)
    errors = [a for n, a in shown.elements if str(a.get("class")).startswith("error")]
    assert len(errors) == 6


def test_several_runs_stand_on_one_axis():
    shown = of(t3s_summary(), sft_summary())
    label = "Training accuracy of all runs by steps from theta_0, one standard error up and down"
    assert [a.get("aria-label") for n, a in shown.elements if n == "svg"].count(label) == 1
    for link in (a["href"] for n, a in shown.elements if n == "a"):
        assert link[1:] in {a.get("id") for _, a in shown.elements}
    assert {"1. t3s", "2. sft"} <= {text for _, text in shown.inside("h2")}


@pytest.mark.parametrize(
    "changed",
    [
        {"measurements": [], "evaluations": [], "phases": [], "tokens": {}},
        {"finished": False, "theta_b_step": None, "theta_b_reason": None},
        {"confidence": [{"step": 0, "fall": 0.0}, {"step": 1, "fall": -0.5}]},
        {"figure_4": [{"phase": "profile", "step": 1, "loss_anchor": None, "delta_other": -1.0}]},
        {"seconds": {}},
    ],
)
def test_what_a_run_may_lack(changed):
    of(t3s_summary(**changed))


def test_a_void_measurement_and_one_that_ended_early():
    summary = t3s_summary()
    summary["measurements"][1] |= {"accuracy": None, "standard_error": None, "void": True}
    summary["measurements"][2] |= {"marks": "01--"}
    shown = of(summary)
    assert "void" in {text for _, text in shown.inside("td")}
    assert "~0.250 ± 0.050" in shown.said
    assert len([n for n, _ in shown.elements if n == "circle"]) == 5


def test_every_picture_has_a_name_and_light_and_dark_are_there():
    shown = of(t3s_summary())
    for name, attributes in shown.elements:
        if name == "svg":
            assert attributes.get("aria-label") or attributes["aria-hidden"] == "true"
    assert "prefers-color-scheme: dark" in "".join(text for _, text in shown.inside("style"))
    assert ("html", {"lang": "en"}) in shown.elements
