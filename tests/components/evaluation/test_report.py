# SPDX-License-Identifier: Apache-2.0
"""The page of a day: whole by itself, the same for the same day, and it says what is missing."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from components.config import load_config
from components.evaluation.report import report
from components.evaluation.scorecard import Scorecard
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry.gate import gate
from components.registry.metrics import RankerMetrics
from components.registry.records import Parity
from components.registry.run import Run
from tests.run_builders import (
    curve,
    day_metrics,
    ingest_counts,
    measured,
    moved,
    version_record,
)

CONFIG = load_config("demo")
SPEC = CONFIG.spec
DAYS = [f"2026-01-{day:02d}" for day in range(3, 9)]


def write_day(
    layout: Layout,
    day: str,
    *,
    auc: float = 0.756,
    rankers: dict[str, RankerMetrics] | None = None,
    **change: object,
) -> None:
    rng = np.random.default_rng(SPEC.day_number(day))
    all_three = (("feed_sr", auc), ("dcnv2", 0.75), ("production", 0.754))
    rankers = rankers or {name: measured(SPEC, rng, each) for name, each in all_three}
    drift = {
        name: moved(psi).plain()
        for name, psi in (("post_impressions", 0.31), ("hour", 0.02), ("post_age_hours", 0.11))
    }
    Run(layout, day).write(day_metrics(SPEC, day, rankers, **{"drift": drift, **change}))
    gate(layout, day, CONFIG)
    for name in ("feed_sr", "dcnv2"):
        points = [point.plain() for point in curve(SPEC, rng)]
        trained = {"config": {}, "spec_hash": SPEC.hash}
        record = {"freshness": "day", "curve": points, "steps": 80}
        write_json(layout.model(day, name) / "config.json", {**trained, "record": record})
    layout.impressions_day(day).parent.mkdir(parents=True, exist_ok=True)
    layout.impressions_day(day).touch()
    write_json(layout.ingest_counts(day), asdict(ingest_counts(day)))


def test_parity_is_told_in_a_sentence(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    parity = Parity(
        day=DAYS[0], logged=3, probes=13, skipped={}, requests=16, candidates=1_320, scored=16,
        served_difference=3e-8, forward_difference=4e-7, bound=2e-6,
    )  # fmt: skip
    Run(layout, DAYS[0]).write(parity)
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "16 requests with 1,320 candidates" in page
    assert "at most 3.0e-08 from what was served" in page


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
    outside = Outside()
    outside.feed(page)
    assert not outside.tags & {"script", "link", "iframe", "img", "object"}
    assert all(load.startswith(("#", "../../registry/")) for load in outside.loads)
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
    with pytest.raises(ValueError, match="missing: run feedsr evaluate --day 2026-01-03 first"):
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
    for ranker in old["rankers"].values():
        del ranker["tasks"][CONFIG.gate.task]
    write_json(path, old)
    write_day(layout, DAYS[1])
    version = f"{DAYS[0]}-aaaaaaaa"
    record = version_record(SPEC, version)
    record.write(layout.registry / "versions" / version / "version.json")
    page = report(layout, DAYS[1], CONFIG).read_text()
    assert f"<code>{version}</code></a></td><td>-</td>" in page


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
    drift = {"hour": moved(None).plain(), "post_impressions": moved(0.251).plain()}
    write_day(layout, DAYS[0], drift=drift)
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert '<code>hour</code></td><td class="">-</td>' in page
    assert page.index("<code>post_impressions") < page.index("<code>hour")
    assert '<td class="down">0.251</td>' in page


def test_a_day_without_impressions_has_a_report(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    empty = Scorecard(SPEC.task_names).result()
    write_day(layout, DAYS[0], rankers={"feed_sr": empty, "dcnv2": empty}, drift={})
    page = report(layout, DAYS[0], CONFIG).read_text()
    assert "The gate refuses this model" in page
    assert "the same 0 impressions" in page.replace("\n  ", " ")
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)


def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path) -> None:
    layout = Layout.at(tmp_path)
    write_day(layout, DAYS[0])
    layout.ingest_counts(DAYS[0]).write_text('{"read": 3}')
    with pytest.raises(ValueError, match=r"day=2026-01-03\.json is damaged: day: "):
        report(layout, DAYS[0], CONFIG)
