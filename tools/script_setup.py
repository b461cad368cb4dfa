"""Let a tool run as a script: `import script_setup` is its first import.

Python looks for modules in the script's own folder only. This module adds the repository, where `hrm_offline` and
`tools` are. Each folder of tools has such a file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
