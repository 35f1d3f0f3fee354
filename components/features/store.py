# SPDX-License-Identifier: Apache-2.0
"""A run's Feast repository: renders it, applies it, opens it.

Feast is imported when a function needs it: it costs seconds and hundreds of megabytes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import yaml

from components.config import DailyConfig
from components.layout.files import atomic_path
from components.layout.paths import Layout
from feature_repo.opening import open_repository
from feature_repo.quoting import SECRETS, feast_yaml
from feature_repo.spec import Spec

if TYPE_CHECKING:
    from feature_repo.sources import Offline

STORES = Path(__file__).parents[2] / "feature_repo" / "stores"
RUN = ".."
"""A run, from its Feast repository; what lies in the repository itself goes by its name alone."""
DEFAULT_REDIS = "127.0.0.1:6379"
REDIS_ADDRESS = re.compile(r"[^:,=\s]+:\d+(,[^,\s]+)*")
"""host:port, then what else Feast takes: further hosts, `ssl=true`."""
PASSWORD = SECRETS[0]
NO_PASSWORD = re.compile(r"[\s\"\\,\x00-\x1f\x7f]")
"""What a password in a text in YAML, in a list of options of Feast's, cannot hold."""

HEADER = """# SPDX-License-Identifier: Apache-2.0
# The Feast repository of the run around this folder. Written by the daily loop.
"""
DEFINITIONS = Template(
    '''# SPDX-License-Identifier: Apache-2.0
"""What `feast apply` registers for the run around this folder. Written by the daily loop."""

from pathlib import Path

from feature_repo.services import repository
from feature_repo.specs import spec_by_name

root = Path(__file__).resolve().parent.parent
globals().update(repository(spec_by_name("$spec"), root, "$offline"))
'''
)


def render_store(layout: Layout, config: DailyConfig) -> Path:
    """Writes `feast/feature_store.yaml` and `feast/definitions.py` of a run; returns the folder.

    What they name of the run is relative to the folder: a run that is copied or moved has its own.
    The Redis address is `FEEDSR_REDIS` (host:port), by default 127.0.0.1:6379.

    Raises:
        ValueError: a store has no declaration under feature_repo/stores, or FEEDSR_REDIS is no
            address.
    """
    declared = _declared(config.online_store)
    if config.offline_store != "duckdb":
        declared |= _declared(config.offline_store)
    known = {
        "FEEDSR_ROOT": RUN,
        "FEEDSR_REDIS": _redis_address(),
        "FEEDSR_SPARK_MASTER": os.environ.get("FEEDSR_SPARK_MASTER") or "local[*]",
    }
    text = feast_yaml(_filled(declared, known))
    _write_text(layout.feast / "feature_store.yaml", HEADER + text)
    definitions = DEFINITIONS.substitute(spec=config.spec_name, offline=config.offline_store)
    _write_text(layout.feast / "definitions.py", definitions)
    return layout.feast


def _declared(store: str) -> dict[str, Any]:
    path = STORES / f"{store}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no {path}; declare the store there")
    declared: dict[str, Any] = yaml.safe_load(path.read_text())
    return declared


def follow_root(layout: Layout) -> None:
    """Makes a repository that names the place it was rendered in, as older ones do, name its own.

    A root that was copied would serve the other's rows. What is of no root stays as it is.
    """
    path = layout.feast / "feature_store.yaml"
    declared = yaml.safe_load(path.read_text()) if path.is_file() else {}
    if not Path(str(declared.get("registry") or RUN)).is_absolute():
        return
    declared["registry"] = "registry.db"
    if "path" in declared["online_store"]:
        declared["online_store"]["path"] = "online_store.db"
    _write_text(path, HEADER + feast_yaml(declared))


def _filled(declared: Any, known: dict[str, str]) -> Any:
    """The declaration with the values of its variables, which are values and not YAML."""
    if isinstance(declared, dict):
        return {name: _filled(value, known) for name, value in declared.items()}
    if isinstance(declared, str):
        return Template(declared).substitute(known).removeprefix(f"{RUN}/feast/")
    return declared


def _redis_address() -> str:
    """Where Redis is, with the name of the variable that its password is in, if there is one."""
    address, password = (os.environ.get(n, "") for n in ("FEEDSR_REDIS", PASSWORD))
    address = address or DEFAULT_REDIS
    if not REDIS_ADDRESS.fullmatch(address):
        raise ValueError(
            f"FEEDSR_REDIS starts with {address.split(',')[0]!r}, want host:port, "
            f"for example {DEFAULT_REDIS}"
        )
    if ",password=" in address:
        raise ValueError(
            f"FEEDSR_REDIS holds a password, which a file would; want it in {PASSWORD}"
        )
    if NO_PASSWORD.search(password):
        raise ValueError(
            f"{PASSWORD} holds a space, a quote, a comma or a backslash, which Feast does not take"
        )
    # In quotes, a password of digits is a text too.
    return f'{address},password="${{{PASSWORD}}}"' if password else address


def open_store(layout: Layout, config: DailyConfig) -> Any:
    """The run's `feast.FeatureStore`, rendered first.

    Raises:
        ValueError: the repository cannot be read.
    """
    folder = render_store(layout, config)
    # Feast draws bars of its own; a step has its own progress.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from google.protobuf.message import DecodeError

    store = open_repository(folder)
    try:
        store.list_projects()
    except DecodeError as error:
        raise ValueError(
            f"the Feast registry {layout.feast / 'registry.db'} is damaged ({error}); remove it "
            "and run materialize, which fills the online store again"
        ) from error
    return store


def apply_store(layout: Layout, spec: Spec, store: Any) -> None:
    """`feast apply` for a run: registers what is declared, and makes the online tables.

    Feast's command also notes where it made them, and would take those of a copied root's first
    place away when it makes its own; that note is dropped.

    Raises:
        ConnectionError: the online store cannot be reached.
    """
    from feast.infra.infra_object import Infra

    from feature_repo.services import repository

    offline: Offline = "spark" if store.config.offline_store.type == "spark" else "duckdb"
    with reachable(store), quiet():
        store.apply(list(repository(spec, layout.root, offline).values()))
        store.registry.update_infra(Infra(), store.project)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Feast's prints, and the warnings of the libraries under it, off a step's output."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def reachable(store: Any) -> Iterator[None]:
    """Turns the online store's own connection errors into a ConnectionError of one sentence."""
    try:
        yield
    except Exception as error:
        if not _is_connection_error(error):
            raise
        # Redis quotes the failed command, bytes and all, before it says why.
        text = str(error).split("caused error: ")[-1].split("\n")[0][:160]
        raise ConnectionError(
            f"the online store ({online_address(store)}) cannot be reached: {text}; "
            "start it, or choose another with online_store"
        ) from error


def online_address(store: Any) -> str:
    """The kind of the online store and where it is; what follows a host may be a password."""
    online = store.config.online_store
    options = str(getattr(online, "connection_string", "")).split(",")
    hosts = next((option for option in options if "=" not in option), "")
    where = hosts or os.path.normpath(Path(store.repo_path).absolute() / online.path)
    return f"{online.type} at {where}"


def _is_connection_error(error: BaseException) -> bool:
    import sqlite3

    import redis.exceptions

    return isinstance(
        error,
        ConnectionError | TimeoutError | redis.exceptions.RedisError | sqlite3.DatabaseError,
    )


def _write_text(path: Path, text: str) -> None:
    if path.is_file() and path.read_text() == text:
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text)
