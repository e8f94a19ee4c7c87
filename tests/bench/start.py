"""How long the command line takes to answer, against an empty Python and against click alone: PRODUCT.md promises 150 ms.

python -m tests.bench.start
"""

from __future__ import annotations

import subprocess
import sys
import time

ROUNDS = 10
PROGRAMS = {
    "python alone": ("-c", "pass"),
    "import click": ("-c", "import click"),
    "--version": ("-m", "kuberouterpy", "--version"),
    "--help": ("-m", "kuberouterpy", "--help"),
    "ipvs --help": ("-m", "kuberouterpy", "ipvs", "--help"),
    "plan --help": ("-m", "kuberouterpy", "plan", "--help"),
    "run --help": ("-m", "kuberouterpy", "run", "--help"),
}


def best_ms(*words: str) -> float:
    """Return the shortest of some runs: what others do on the machine only ever adds."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return min(took) * 1000


def main() -> None:
    """Print one line a program: milliseconds, and how many times an empty Python."""
    base = best_ms(*PROGRAMS["python alone"])
    for name, words in PROGRAMS.items():
        took = best_ms(*words)
        print(f"{name:<14} {took:7.1f} ms  {took / base:5.1f} x")


if __name__ == "__main__":
    main()
