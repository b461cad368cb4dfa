"""The studies of the smallest preset, and a scale at which they take seconds."""

from hrm_offline.presets import preset
from tools.study.report import Scale
from tools.study.studies import studies_of

STUDIES = studies_of(preset("hrm-132k").model)
SCALE = Scale("hrm-132k", "rehearsal:0:3", 2, (0, 1, 2), "the command", 1)
