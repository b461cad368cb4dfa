"""Let a tool run as a script: `import script_setup` is the first import of every tool.

Python looks for modules only in the folder of the running script. This module adds the repository, where the packages
`hrm_offline` and `tools` are. Each folder of tools has a file of this name.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
