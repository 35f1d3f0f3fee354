# SPDX-License-Identifier: Apache-2.0
"""Whether a refactor computes what was computed before it: two days of the loop, byte for byte.

It knows the `feedsr` command, the files of a run and V1 JSON over HTTP, and imports nothing of the
packages, so that the same program measures the code before a change and after. Everything runs in
one thread. The digests are kept in `build/same.json` and compared by the next call; they are of one
machine, since no two processors add in one order.

    python -m tests.same            compare with what is kept, or keep it where nothing is
    python -m tests.same --keep     keep what this code computes, whatever was kept
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Digests = dict[str, str]

KEPT = Path("build/same.json")
FEEDSR = Path(sys.executable).with_name("feedsr")
HASHED = ("sequences/**/*.arrow", "runs/**/model.safetensors")
"""Every shard and the weights of every day, below a run's root."""
KUAIRAND_ROWS = 20_000
MEMBERS, CANDIDATES = 5, 20
"""One hundred served scores: of the most active members, for the newest posts."""
STOP_SECONDS = 60
"""How long the servers may take to end when they are told to."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def main() -> int:
    """Prints a line for each log and each difference; 1 if there is one."""
    parser = argparse.ArgumentParser(description="what two days of the loop compute, by SHA-256")
    parser.add_argument("--keep", action="store_true", help="keep it, whatever was kept")
    parser.add_argument("--kuairand", default=os.environ.get("FEEDSR_KUAIRAND", ""))
    options = parser.parse_args()
    digests = computed(options.kuairand)
    if options.keep or not KEPT.is_file():
        keep(digests)
        print(f"{len(digests)} digests are kept in {KEPT}")
        return 0
    told = differences(json.loads(KEPT.read_text()), digests)
    print("\n".join(told) if told else f"all {len(digests)} digests are the same")
    return int(bool(told))


def computed(kuairand: str) -> Digests:
    """The digests of the demo's log and, where it lies, of KuaiRand's first rows."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        digests = of_log("demo", work / "demo", [])
        if kuairand:
            data = first_rows(Path(kuairand), work / "kuairand_pure_tail")
            digests |= of_log("kuairand", work / "kuairand", ["--data", str(data)])
        else:
            print("no KuaiRand: name its folder by --kuairand or FEEDSR_KUAIRAND")
    return digests


def of_log(name: str, root: Path, arguments: list[str]) -> Digests:
    """Two days of the loop on a log, cold and warm, and one hundred scores of what it promoted."""
    command = [FEEDSR, "demo", "--root", root, *arguments]
    subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT}, stdout=sys.stderr)
    files = sorted(path for pattern in HASHED for path in root.glob(pattern))
    digests = {f"{name}/{p.relative_to(root)}": sha256(p.read_bytes()) for p in files}
    scores = served(root)
    print(f"{name}: {len(files)} files, {len(scores)} scores", flush=True)
    return digests | {f"{name}/scores": sha256(json.dumps(scores).encode())}


def served(root: Path) -> list[list[Any]]:
    """Post, final score and probabilities of each candidate that `feedsr serve` ranks."""
    instances = requests(root)
    with serving(root) as url:
        answers = [predict(url, instance) for instance in instances]
    rows = [row for answer in answers for row in answer["ranked"]]
    return [[row["post_id"], row["score"], row["probabilities"]] for row in rows]


def requests(root: Path) -> list[dict[str, Any]]:
    """Requests at the end of the log, one for each of its most active members."""
    days = sorted(root.glob("impressions/day=*"))
    columns = ["member_id", "event_time"]
    log = pa.concat_tables(pq.read_table(d, columns=columns, partitioning=None) for d in days)
    counts = log.group_by("member_id").aggregate([("member_id", "count")])
    by_count = [("member_id_count", "descending"), ("member_id", "ascending")]
    members = counts.sort_by(by_count)["member_id"][:MEMBERS].to_pylist()
    by_age = [("created_ms", "descending"), ("post_id", "ascending")]
    posts = pq.read_table(root / "posts.parquet").sort_by(by_age)["post_id"][:CANDIDATES]
    last = pc.max(log["event_time"]).cast(pa.int64()).as_py()
    return [
        {"member_id": member, "candidates": posts.to_pylist(), "time_ms": last, "request": {}}
        for member in members
    ]


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of the servers of a root, which end with the block."""
    command = [FEEDSR, "serve", "--root", root, "--port", "0"]
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            found = next((m for line in lines if (m := re.search(r"http://[\d.:]+", line))), None)
            if found is None:
                raise SystemExit(f"feedsr serve ended with {process.wait()}")
            yield found.group()
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()


def predict(url: str, instance: dict[str, Any]) -> dict[str, Any]:
    """The one prediction of a V1 call."""
    body = json.dumps({"instances": [instance]}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/models/feed-sr:predict", body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())["predictions"][0]


def first_rows(data: Path, folder: Path) -> Path:
    """A copy of KuaiRand's partial layout with its first rows, and what is of their members."""
    folder.mkdir()
    rows = pq.read_table(data / "impressions.parquet")[:KUAIRAND_ROWS]
    pq.write_table(rows, folder / "impressions.parquet")
    for name in ("users", "prehistory"):
        table = pq.read_table(data / f"{name}.parquet")
        kept = table.filter(pc.is_in(table["user_id"], pc.unique(rows["user_id"])))
        pq.write_table(kept, folder / f"{name}.parquet")
    shutil.copy(data / "items.parquet", folder)
    return folder


def differences(before: Digests, now: Digests) -> list[str]:
    """A line for each name whose digest is another, or that only one side has."""
    told = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            why = "is gone" if name not in now else "is new" if name not in before else "differs"
            told.append(f"{name} {why}")
    return told


def keep(digests: Digests) -> None:
    """Writes them by a rename."""
    KEPT.parent.mkdir(exist_ok=True)
    temporary = KEPT.with_suffix(".new")
    temporary.write_text(json.dumps(digests, indent=1) + "\n")
    temporary.replace(KEPT)


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
