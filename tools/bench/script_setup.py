"""Let the tools of this folder run as scripts, as in tools/script_setup.py, with the packages that they need."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.support import environment

environment.ensure(("torch", "triton", "numpy", "safetensors", "pytest"))
