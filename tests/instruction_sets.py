# SPDX-License-Identifier: Apache-2.0
"""Runs tests under the instruction sets that this machine can pretend to have.

    python -m tests.instruction_sets [SETTING ...] [-- pytest's arguments]

PyTorch, oneDNN, MKL, OpenBLAS, NumPy and our C++ each choose by the processor and can each be told
to choose less. A setting that asks for more than the processor has is skipped, and said. Without
pytest's arguments the kernels', the model's and serving's tests are run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("tests/kernels", "tests/model", "tests/serving")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is told to the libraries, and which flags of the processor that needs."""

    variables: dict[str, str]
    needs: frozenset[str] = field(default_factory=frozenset)


def cpp(instructions: str, *needs: str) -> Setting:
    """Attention in C++ by one instruction set."""
    return Setting(variables={"FEEDSR_INSTRUCTIONS": instructions}, needs=frozenset(needs))


SETTINGS = {
    "baseline": Setting(
        variables={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3",
            "FEEDSR_NATIVE": "off",
        }
    ),
    "avx2": Setting(
        variables={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
        },
        needs=frozenset({"avx2", "fma"}),
    ),
    "avx512": Setting(
        variables={
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512",
            "OPENBLAS_CORETYPE": "SkylakeX",
        },
        needs=frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl"}),
    ),
    "mkl_compatible": Setting(variables={"MKL_CBWR": "COMPATIBLE"}),
    "native_off": Setting(variables={"FEEDSR_NATIVE": "off"}),
    "cpp_avx512": cpp("avx512", "avx512f", "avx512dq", "avx512bw", "avx512vl"),
    "cpp_avx512_bf16": cpp("avx512_bf16", "avx512_bf16"),
    "cpp_amx_bf16": cpp("amx_bf16", "amx_bf16"),
    "cpp_avx512_emulated": cpp("avx512_emulated"),
    "cpp_avx512_bf16_emulated": cpp("avx512_bf16_emulated"),
    "cpp_amx_emulated": cpp("amx_emulated"),
}


def lacking(setting: Setting) -> set[str]:
    """The flags that a setting needs and the processor has not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return set(setting.needs) - set(flags)


def pytest_under(setting: Setting, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Pytest in a process of its own, which is told only what the setting says."""
    ours = {name for each in SETTINGS.values() for name in each.variables}
    environment = {k: v for k, v in os.environ.items() if k not in ours} | setting.variables
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def main() -> int:
    """Runs each setting in turn, tells a line of each, and fails where one of them did."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    names, arguments = given[:cut] or list(SETTINGS), given[cut + 1 :] or list(FOLDERS)
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        print(f"{unknown[0]!r} is no setting, want some of: {', '.join(SETTINGS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        absent = lacking(SETTINGS[name])
        if absent:
            print(f"{name}: skipped, the processor has no {', '.join(sorted(absent))}", flush=True)
            continue
        done = pytest_under(SETTINGS[name], arguments)
        lines = done.stdout.splitlines()
        print(f"{name}: {lines[-1] if lines else done.stderr.strip()}", flush=True)
        if done.returncode:
            failed = 1
            print(done.stdout, done.stderr, sep="\n", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
