"""The fuzzing of `mutations` led by coverage, with atheris; `make soak` installs both and runs it.

    python tests/proof/coverage_guided.py CORPUS [-max_total_time=600 and other options of libFuzzer]

Wants an rlcli that is not editable on PYTHONPATH: an editable one has a loader of its own, and shows no
coverage. Stops at the first promise that is broken and leaves the bytes that show it in `crash-…`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["rlcli.format"]):
    from mutations import Target


def main() -> None:
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="rl-fuzz-", dir=memory if memory.is_dir() else None)
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    target = Target(Path(folder))

    def one(data: bytes) -> None:
        target.run(data)
        if target.counts["cases"] % 2000 == 0:
            print(dict(target.counts), flush=True)

    options = ["-max_len=64", "-len_control=0", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:], sys.argv[1]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
