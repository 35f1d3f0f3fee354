# SPDX-License-Identifier: Apache-2.0
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from components.config import load_config
from components.evaluation.drift import drift
from components.evaluation.figures import Run, auc_per_day, feature_shares
from components.evaluation.report import report
from components.evaluation.scorecard import LOGIT_EDGES, Scorecard, plain
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry.gate import gate

CONFIG = load_config("demo")
SPEC = CONFIG.spec
DAYS = [f"2026-01-{day:02d}" for day in range(3, 9)]


def scorecard(rng: np.random.Generator, auc: float) -> dict:
    """A ranker's part of metrics.json with numbers of the right shape and range."""
    tasks, calibration, scores = {}, {}, {}
    for task in SPEC.tasks:
        positives = int(20_000 * task.prior)
        noise = rng.normal(0, 0.004)
        of = {"auc": auc + noise, "log_loss": 0.5, "ece": 0.01, "n": 20_000, "positives": positives}
        tasks[task.name] = of
        predicted = np.linspace(0.2, 2.5, 10) * task.prior
        observed = predicted * rng.normal(1, 0.08, 10)
        bins = {"predicted": predicted, "observed": observed, "count": np.full(10, 2_000)}
        calibration[task.name] = bins
        logit = rng.normal(np.log(task.prior / (1 - task.prior)), 0.9, 20_000)
        count = np.histogram(np.clip(logit, -12, 6), LOGIT_EDGES)[0]
        scores[task.name] = {"edges": LOGIT_EDGES, "count": count, "positives": count // 4}
    names = ("history 0 to 9", "history 10 to 49", "history 200 or more", "posts of the last day")
    within = {t: {"auc": auc - 0.07, "members": 900, "impressions": 14_000} for t in tasks}
    segments = dict.fromkeys(names, tasks)
    body = {"tasks": tasks, "segments": segments, "within_member": within}
    return plain({**body, "calibration": calibration, "scores": scores})


def write_day(layout: Layout, day: str, *, auc: float = 0.756, **change: object) -> None:
    rng = np.random.default_rng(SPEC.day_number(day))
    rankers = {"feed_sr": scorecard(rng, auc), "dcnv2": scorecard(rng, 0.75)}
    rankers["production"] = scorecard(rng, 0.754)
    shares = {"train": [0.3, 0.3, 0.3, 0.1], "eval": [0.2, 0.3, 0.45, 0.05]}
    drift = {
        name: {"psi": psi, "numeric": True, "edges": [1, 2], **shares}
        for name, psi in (("post_impressions", 0.31), ("hour", 0.02), ("post_age_hours", 0.11))
    }
    metrics = {
        "day": day, "model": "ab" * 32, "production": None, "production_note": "",
        "spec_hash": SPEC.hash, "freshness": "day", "position": 5,
        "rankers": rankers, "drift": drift, **change,
    }  # fmt: skip
    write_json(layout.run(day) / "metrics.json", metrics)
    gate(layout, day, CONFIG)
    for name in ("feed_sr", "dcnv2"):
        write_json(layout.model(day, name) / "config.json", {"record": {"curve": curve(rng)}})
    counts = {"read": 20_400, "kept": 20_000, "duplicates": 380, "late": 57}
    layout.impressions_day(day).parent.mkdir(parents=True, exist_ok=True)
    layout.impressions_day(day).touch()
    write_json(layout.ingest_counts(day), {**counts, "quarantined": {"position below -1 <b>": 20}})


def test_parity_is_told_in_a_sentence(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    found = {"requests": 16, "candidates": 1_320, "bound": 2e-6}
    differences = {"served_difference": 3e-8, "forward_difference": 4e-7}
    write_json(layout.run(DAYS[0]) / "parity.json", {**found, **differences})
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "16 requests with 1,320 candidates" in page
    assert "at most 3.0e-08 from what was served" in page


def curve(rng: np.random.Generator) -> list[dict]:
    points = []
    for step in range(1, 81):
        loss = 0.5 + 0.3 * np.exp(-step / 15)
        tasks = {t: loss + rng.normal(0, 0.01) for t in SPEC.task_names}
        points.append({"step": step, "loss": loss, "lr": 1e-3, "tasks": tasks})
    return points


class Outside(HTMLParser):
    """Collects what a page would load or link to, and the tags it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset") and v]


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    for day in DAYS:
        write_day(layout, day)
    page = report(layout, DAYS[-1], CONFIG).read_text()
    found = Outside()
    found.feed(page)
    assert not found.tags & {"script", "link", "iframe", "img", "object"}
    assert all(load.startswith(("#", "../../registry/")) for load in found.loads)
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.count("<svg") == 5
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)
    for text in ("The gate lets this model through", "DCNv2", "history 0 to 9", "+0.00", *DAYS):
        assert text in page


def test_plots_take_their_colours_from_the_page(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    page = report(layout, DAYS[0], CONFIG).read_text()
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert "var(--feed-sr)" in svgs
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]\b", svgs)
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", svgs)


def test_it_gives_the_reasons_of_a_refusal_and_escapes_what_it_shows(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0], auc=0.52, production_note="<i>none</i> was in production")
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "The gate refuses this model" in page
    assert "AUC of long_dwell is 0.5" in page
    assert "<i>none" not in page
    assert "&lt;b&gt; (20)" in page


def test_the_same_day_gives_the_same_bytes(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    first = report(layout, DAYS[0], CONFIG).read_bytes()
    assert report(layout, DAYS[0], CONFIG).read_bytes() == first


def test_what_is_missing_is_said(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    with pytest.raises(ValueError, match="evaluate 2026-01-03 before its report"):
        report(layout, DAYS[0], CONFIG)
    write_day(layout, DAYS[0])
    (layout.run(DAYS[0]) / "gate.json").unlink()
    layout.ingest_counts(DAYS[0]).unlink()
    (layout.model(DAYS[0], "feed_sr") / "config.json").unlink()
    (layout.model(DAYS[0], "dcnv2") / "config.json").unlink()
    page = report(layout, DAYS[0], CONFIG).read_text()
    for text in ("has not judged", "parity step has not run", "Nothing is registered", "No ingest"):
        assert text in page


def test_a_verdict_on_other_weights_is_not_shown(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    path = layout.run(DAYS[0]) / "metrics.json"
    write_json(path, {**json.loads(path.read_text()), "model": "cd" * 32})
    assert "has not judged" in report(layout, DAYS[0], CONFIG).read_text()


def test_days_and_versions_without_the_task_are_left_out(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    path = layout.run(DAYS[0]) / "metrics.json"
    old = json.loads(path.read_text())
    for of in old["rankers"].values():
        del of["tasks"][CONFIG.gate.task]
    write_json(path, old)
    write_day(layout, DAYS[1])
    version = {"day": DAYS[0], "metrics": {}, "gate": {"passed": True}}
    write_json(layout.registry / "versions" / "v1" / "version.json", version)
    page = report(layout, DAYS[1], CONFIG).read_text()
    assert "v1" in page


def test_undefined_metrics_are_a_dash(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    path = layout.run(DAYS[0]) / "metrics.json"
    path.write_text(re.sub(r'"(auc|ece|observed)": 0\.\d+', r'"\1": null', path.read_text()))
    gate(layout, DAYS[0], CONFIG)
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "could not be measured" in page
    assert "<td>-</td>" in page


def test_an_index_that_could_not_be_made_is_a_dash(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    shares = {"numeric": True, "edges": [1], "train": [0, 0, 0], "eval": [0.25, 0.5, 0.25]}
    moved = {"hour": {"psi": None, **shares}, "post_impressions": {"psi": 0.251, **shares}}
    write_day(layout, DAYS[0], drift=moved)
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert '<code>hour</code></td><td class="">-</td>' in page
    assert page.index("<code>post_impressions") < page.index("<code>hour")
    assert '<td class="down">0.251</td>' in page


def test_a_mass_at_one_value_is_drawn_as_a_bin_of_its_own(tmp_path) -> None:
    """Below the mass, the mass, ten bins of the others, missing: a pair of bars each."""
    train = np.random.default_rng(0).exponential(size=(4_000, SPEC.context_width))
    train[train < 2] = 0
    moved = plain(drift(train.astype(np.float32), train[:50].astype(np.float32), SPEC))
    one = {"post_impressions": moved["post_impressions"]}
    assert len(one["post_impressions"]["train"]) == 13
    plot = feature_shares(Run({"drift": one, "rankers": {}}, {}, [], ["click"], "click"))
    assert plot is not None
    assert "each value that many rows share" in plot.note
    assert plot.svg.count("var(--production)") == plot.svg.count("fill: var(--feed-sr)") == 13
    assert feature_shares(Run({"drift": {}, "rankers": {}}, {}, [], ["click"], "click")) is None


def test_no_day_that_was_judged_is_an_empty_plot() -> None:
    plot = auc_per_day(Run({"drift": {}, "rankers": {}}, {}, [], ["click"], "click"))
    ElementTree.fromstring(plot.svg)
    assert plot.names == ()


def test_a_day_without_impressions_has_a_report(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    empty = Scorecard(SPEC.task_names).result()
    write_day(layout, DAYS[0], rankers={"feed_sr": empty, "dcnv2": empty}, drift={})
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "The gate refuses this model" in page
    assert "the same 0 impressions" in page.replace("\n  ", " ")
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)
