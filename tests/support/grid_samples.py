"""Grids and views for property tests, and the eight symmetries written with numpy."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hrm_offline.data.augment import View

GRIDS = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 9))
VIEWS = st.builds(View, st.integers(0, 7), st.permutations(range(10)).map(tuple))
BY_NUMPY = (
    lambda g: g,
    lambda g: np.rot90(g, 1),
    lambda g: np.rot90(g, 2),
    lambda g: np.rot90(g, 3),
    np.fliplr,
    np.flipud,
    lambda g: g.T,
    lambda g: np.fliplr(np.rot90(g, 1)),
)
