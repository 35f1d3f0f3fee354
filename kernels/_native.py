# SPDX-License-Identifier: Apache-2.0
"""Finds the compiled half of a kernel, or says why there is none; knows nothing of what it does.

`FEEDSR_NATIVE=off` leaves every compiled kernel out; a folder takes them from a build of its own
(`cmake --build`; how the sanitizers' build is tested).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

VARIABLE = "FEEDSR_NATIVE"


@functools.cache
def native(kernel: str) -> tuple[ModuleType | None, str]:
    """The compiled module of `kernels/<kernel>`, or None; and in words why.

    Raises:
        ValueError: `FEEDSR_NATIVE` names a folder without that module.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off":
        return None, f"{VARIABLE}=off"
    # First, so that both use one OpenMP runtime; here, as it takes seconds.
    import torch  # noqa: F401

    name = f"kernels.{kernel}._cpu"
    if chosen:
        return _from_folder(name, Path(chosen) / "kernels" / kernel), f"built in {chosen}"
    try:
        return importlib.import_module(name), "compiled with the package"
    except ModuleNotFoundError:
        return None, "the package was installed without a C++ compiler"
    except ImportError as error:
        return None, f"the compiled module does not load: {error}"


def _from_folder(name: str, folder: Path) -> ModuleType:
    modules = sorted(folder.glob("_cpu.*"))
    if not modules:
        raise ValueError(f"{VARIABLE}: {folder} holds no compiled module; build it, or unset it")
    spec = importlib.util.spec_from_file_location(name, modules[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
