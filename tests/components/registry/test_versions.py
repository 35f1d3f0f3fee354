# SPDX-License-Identifier: Apache-2.0
import fcntl
import itertools
import multiprocessing
import os
import re
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from components.config import load_config
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import gate
from components.registry.run import Run
from tests.run_builders import day_metrics, ranker_metrics

CONFIG = load_config("demo")
DAYS = [f"2026-01-{day:02d}" for day in range(2, 9)]
GOOD = {"auc": 0.75, "log_loss": 0.5, "ece": 0.02, "n": 10_000, "positives": 3_000}


def judged_model(layout: Layout, day: str, *, seed: int = 0, auc: float = 0.75) -> None:
    """A model folder with its metrics and the gate's verdict, as the steps before leave them."""
    folder = layout.model(day, "feed_sr")
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
    save_file({"head.weight": weights}, folder / "model.safetensors")
    write_json(folder / "config.json", {"width": 4, "spec_hash": CONFIG.spec.hash})
    candidate = ranker_metrics({name: {**GOOD, "auc": auc} for name in CONFIG.spec.task_names})
    model = versions.model_hash(folder)
    Run(layout, day).write(day_metrics(CONFIG.spec, day, {"feed_sr": candidate}, model=model))
    gate(layout, day, CONFIG)


def registered(layout: Layout, day: str, **options: float) -> str:
    judged_model(layout, day, **options)  # type: ignore[arg-type]
    return versions.register(layout, day, CONFIG)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def layout(tmp_path):
    yield Layout.at(tmp_path)
    for path in tmp_path.glob("registry/versions/*"):
        path.chmod(0o755)


def test_a_version_is_read_only_and_says_where_it_comes_from(layout) -> None:
    version = registered(layout, DAYS[0])
    folder = versions.version_folder(layout, version)
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "config.json", "version.json"
    }  # fmt: skip
    for path in [folder, *folder.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o444 if path.is_file() else 0o555)
    record = versions.version_record(layout, version)
    assert record.spec_hash == CONFIG.spec.hash
    assert record.gate == Run(layout, DAYS[0]).verdict
    assert record.metrics["long_dwell"].auc == 0.75
    assert record.version == version
    assert version.startswith(DAYS[0] + "-")


@pytest.mark.law
@settings(max_examples=15, deadline=None)
@given(runs=st.lists(st.tuples(st.sampled_from(DAYS[:3]), st.integers(0, 2)), min_size=1))
def test_registering_again_leaves_one_version_and_the_same_bytes(runs) -> None:
    """Law 6: however often and in whatever order days run again, a model is registered once."""
    with tempfile.TemporaryDirectory() as folder:
        once, often = Layout.at(folder + "/once"), Layout.at(folder + "/often")
        for day, seed in dict.fromkeys(runs):
            registered(once, day, seed=seed)
        for day, seed in [*runs, *runs[::-1]]:
            registered(often, day, seed=seed)
        assert versions.versions(once) == versions.versions(often)
        assert len(versions.versions(once)) == len(set(runs))
        assert tree(once.registry / "versions") == tree(often.registry / "versions")


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 12))
@example(stop=0)
@example(stop=6)
def test_a_registration_that_is_killed_and_repeated_leaves_one_version(stop) -> None:
    """Law 6: killed after any file operation, then run again: the same registry, no debris."""
    with tempfile.TemporaryDirectory() as folder:
        layout, whole = Layout.at(folder + "/killed"), Layout.at(folder + "/whole")
        judged_model(layout, DAYS[0])
        child = multiprocessing.get_context("fork").Process(
            target=_register_and_die, args=(layout, stop)
        )
        child.start()
        child.join()
        assert child.exitcode in ((9,) if stop < 7 else (0, 9))
        for version in versions.versions(layout):
            versions.promote(layout, version)
        version = versions.register(layout, DAYS[0], CONFIG)
        assert versions.versions(layout) == [version] == [registered(whole, DAYS[0])]
        assert tree(layout.registry / "versions") == tree(whole.registry / "versions")


def _register_and_die(layout: Layout, stop: int) -> None:
    """Registers, and leaves without any clean-up at the `stop`-th file operation."""
    left = stop

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            if left == 0:
                os._exit(9)
            left -= 1
            return function(*args, **kwargs)

        return call

    for name in ("chmod", "rename", "replace"):
        setattr(Path, name, counted(getattr(Path, name)))
    versions.shutil.copyfile = counted(versions.shutil.copyfile)
    versions.register(layout, DAYS[0], CONFIG)


@pytest.mark.law
@settings(max_examples=30, deadline=None)
@given(
    junk=st.dictionaries(st.sampled_from(["a.pkl", "model.pt", "x.bin", "o.joblib"]), st.binary())
)
def test_only_safetensors_and_json_are_registered(junk) -> None:
    """Law 7: what else lies in a model's folder never reaches the registry."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.at(folder)
        judged_model(layout, DAYS[0])
        for name, value in junk.items():
            (layout.model(DAYS[0], "feed_sr") / name).write_bytes(value)
        target = versions.version_folder(layout, versions.register(layout, DAYS[0], CONFIG))
        assert {p.suffix for p in target.iterdir()} == {".safetensors", ".json"}
        assert load_file(target / "model.safetensors")["head.weight"].shape == (8, 4)


def test_promote_and_roll_back_walk_the_history(layout) -> None:
    a, b, c = (registered(layout, day, seed=i) for i, day in enumerate(DAYS[:3]))
    assert versions.current(layout) is None
    for version in (a, b, b, c):
        versions.promote(layout, version)
    assert versions.current(layout) == c
    assert (layout.registry / "current" / "version.json").is_file()
    assert [versions.rollback(layout), versions.rollback(layout)] == [b, a]
    with pytest.raises(ValueError, match="no earlier version to roll back to"):
        versions.rollback(layout)
    assert versions.current(layout) == a
    versions.promote(layout, c)
    assert versions.rollback(layout) == a
    assert [promotion.action for promotion in versions.promotions(layout)] == [
        "promote", "promote", "promote", "rollback", "rollback", "promote", "rollback"
    ]  # fmt: skip


def test_old_versions_are_deleted_but_for_production_and_the_way_back(layout) -> None:
    names = [registered(layout, day, seed=i) for i, day in enumerate(DAYS[:6])]
    for version in names[:2]:
        versions.promote(layout, version)
    assert versions.prune(layout, 9) == []
    assert versions.prune(layout, 1) == names[2:5]
    assert versions.versions(layout) == [*names[:2], names[5]]
    assert sorted(p.name for p in (layout.registry / "versions").iterdir()) == [
        *names[:2], names[5]
    ]  # fmt: skip
    assert versions.rollback(layout) == names[0]


def test_production_and_the_way_back_stay_of_many_that_were_promoted(layout) -> None:
    names = [registered(layout, day, seed=i) for i, day in enumerate(DAYS[:6])]
    for version in names[1:5]:
        versions.promote(layout, version)
    assert versions.prune(layout, 6) == versions.prune(layout, 7) == []
    assert versions.prune(layout, 1) == names[:3]
    assert versions.versions(layout) == names[3:]


def test_a_rollback_to_a_damaged_version_is_refused(layout) -> None:
    a, b = (registered(layout, day, seed=i) for i, day in enumerate(DAYS[:2]))
    for version in (a, b):
        versions.promote(layout, version)
    path = versions.version_folder(layout, a) / "config.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(ValueError, match=f"{a} are not the ones that were registered"):
        versions.rollback(layout)
    assert versions.current(layout) == b
    assert len(versions.promotions(layout)) == 2


def test_a_crash_between_rolling_back_and_recording_is_repaired(layout) -> None:
    a, b, c = (registered(layout, day, seed=i) for i, day in enumerate(DAYS[:3]))
    for version in (a, b, c):
        versions.promote(layout, version)
    before = (layout.registry / "promotions.json").read_bytes()
    assert versions.rollback(layout) == b
    (layout.registry / "promotions.json").write_bytes(before)
    assert versions.rollback(layout) == a
    assert [promotion.action for promotion in versions.promotions(layout)] == [
        "promote", "promote", "promote", "rollback", "rollback"
    ]  # fmt: skip


def test_a_promotion_says_when_to_the_second_and_what_a_killed_one_left_is_no_matter(
    layout,
) -> None:
    version = registered(layout, DAYS[0])
    (layout.registry / f".current.{os.getpid()}").symlink_to("half")
    versions.promote(layout, version)
    (promotion,) = versions.promotions(layout)
    assert (promotion.action, promotion.version) == ("promote", version)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", promotion.time)
    assert (layout.registry / "current").readlink() == Path("versions") / version


def test_a_version_is_made_beside_the_others_unseen(layout, monkeypatch) -> None:
    """Not where temporary files go: another disk, from which nothing can be renamed."""
    monkeypatch.setattr(tempfile, "tempdir", str(layout.root / "nowhere"))
    seen, copy = [], versions.shutil.copyfile

    def failing(source: Path, target: Path) -> None:
        seen.append(target.parent)
        copy(source, target)
        assert versions.versions(layout) == []
        if len(seen) == 2:
            raise OSError("no space")

    monkeypatch.setattr(versions.shutil, "copyfile", failing)
    with pytest.raises(OSError, match="no space"):
        registered(layout, DAYS[0])
    assert seen[0].name.startswith(f".{DAYS[0]}-")
    assert seen[0].parent == layout.registry / "versions"
    assert list(seen[0].parent.iterdir()) == [], "what failed leaves nothing"


def test_what_is_registered_and_promoted_is_on_the_disk(layout, monkeypatch) -> None:
    flushed, flush = [], os.fsync

    def noting(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        flush(handle)

    judged_model(layout, DAYS[0])
    monkeypatch.setattr(os, "fsync", noting)
    handles = open_files()
    version = versions.register(layout, DAYS[0], CONFIG)
    names = sorted(path.name for path in flushed[:-2])
    assert names == ["config.json", "model.safetensors", "version.json"]
    assert flushed[-2].parent == flushed[-1] == layout.registry / "versions"
    versions.promote(layout, version)
    assert flushed[-1] == layout.registry
    assert open_files() == handles


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_who_changes_the_registry_waits_for_who_does(layout) -> None:
    version = registered(layout, DAYS[0])
    with (layout.registry / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = multiprocessing.get_context("fork").Process(
            target=versions.promote, args=(layout, version)
        )
        process.start()
        process.join(0.3)
        assert process.is_alive()
        assert versions.current(layout) is None
        fcntl.flock(file, fcntl.LOCK_UN)
        process.join()
    assert versions.current(layout) == version


def test_a_registry_with_nothing_in_it(tmp_path) -> None:
    layout = Layout.at(tmp_path / "new")
    assert versions.versions(layout) == versions.promotions(layout) == []
    assert versions.current(layout) is None
    assert not layout.registry.exists(), "asking makes nothing"
    assert versions.prune(layout, 1) == []
    with pytest.raises(ValueError, match="no earlier version to roll back to; promote one by name"):
        versions.rollback(layout)
    assert [p.name for p in layout.registry.iterdir()] == [".lock"]


def test_a_refused_version_is_promoted_only_by_force(layout) -> None:
    version = registered(layout, DAYS[0], auc=0.5)
    with pytest.raises(ValueError, match=r"the gate refused .*AUC of long_dwell is 0\.5"):
        versions.promote(layout, version)
    assert versions.current(layout) is None
    versions.promote(layout, version, force=True)
    assert versions.current(layout) == version


def test_an_unknown_version_lists_the_known_ones(layout) -> None:
    with pytest.raises(ValueError, match="has no version 'x'; have none yet"):
        versions.promote(layout, "x")
    version = registered(layout, DAYS[0])
    with pytest.raises(ValueError, match=f"have {version}"):
        versions.promote(layout, "../../etc")


def test_a_verdict_on_other_weights_is_refused(layout) -> None:
    judged_model(layout, DAYS[0])
    folder = layout.model(DAYS[0], "feed_sr")
    save_file({"head.weight": np.zeros((8, 4), np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="judged other weights"):
        versions.register(layout, DAYS[0], CONFIG)
    assert versions.versions(layout) == []


def test_a_damaged_version_is_not_promoted(layout) -> None:
    version = registered(layout, DAYS[0])
    path = versions.version_folder(layout, version) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="are not the ones that were registered"):
        versions.promote(layout, version)
    assert versions.current(layout) is None


def test_missing_inputs_are_one_sentence(layout) -> None:
    with pytest.raises(ValueError, match="does not hold a trained model"):
        versions.register(layout, DAYS[0], CONFIG)
    judged_model(layout, DAYS[0])
    (layout.run(DAYS[0]) / "gate.json").unlink()
    with pytest.raises(ValueError, match="missing: run feedsr gate --day"):
        versions.register(layout, DAYS[0], CONFIG)


def test_a_crash_between_pointing_and_recording_is_repaired(layout) -> None:
    a, b, c = (registered(layout, day, seed=i) for i, day in enumerate(DAYS[:3]))
    versions.promote(layout, a)
    before = (layout.registry / "promotions.json").read_bytes()
    versions.promote(layout, b)
    (layout.registry / "promotions.json").write_bytes(before)
    versions.promote(layout, c)
    assert [promotion.version for promotion in versions.promotions(layout)] == [a, b, c]
    assert versions.rollback(layout) == b


def _promote_often(layout: Layout, names: list[str]) -> None:
    for _ in range(10):
        for version in names:
            versions.promote(layout, version)


def test_many_writers_leave_one_consistent_history(layout) -> None:
    names = [registered(layout, day, seed=i) for i, day in enumerate(DAYS[:3])]
    context = multiprocessing.get_context("fork")
    work = [context.Process(target=_promote_often, args=(layout, names)) for _ in range(3)]
    for process in work:
        process.start()
    seen = set()
    while any(process.is_alive() for process in work):
        seen.add(versions.current(layout))
    for process in work:
        process.join()
    assert [process.exitcode for process in work] == [0, 0, 0]
    assert seen <= {None, *names}
    history = [promotion.version for promotion in versions.promotions(layout)]
    assert history[-1] == versions.current(layout)
    assert all(a != b for a, b in itertools.pairwise(history))


def test_a_damaged_record_is_one_sentence(layout) -> None:
    version = registered(layout, DAYS[0])
    versions.promote(layout, version)
    (layout.registry / "promotions.json").write_text('[{"action": "lost"}]')
    with pytest.raises(ValueError, match=r"promotions\.json is damaged: 0\.action: .*; restore it"):
        versions.promotions(layout)
    path = versions.version_folder(layout, version) / "version.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"version\.json is damaged: day: Field required; restore"):
        versions.version_record(layout, version)
