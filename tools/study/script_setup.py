"""Let the tools of this folder run as scripts, as in tools/script_setup.py, with all packages installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.support import environment

environment.ensure()
