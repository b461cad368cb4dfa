"""Let the tools of this folder run as scripts (see tools/script_setup.py), with all packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tools.support import environment

environment.ensure()
