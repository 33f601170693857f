"""Plain loops in C, compiled with the system's compiler: what the hardware does without us."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any


def compiled(source: str, name: str, folder: Path) -> Any:
    """The function `name` of C source, as `ctypes` calls it; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    file, library = folder / f"{name}.c", folder / f"{name}.so"
    file.write_text(source)
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", file, "-o", library], check=True)
    return getattr(ctypes.CDLL(str(library)), name)
