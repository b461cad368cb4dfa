"""Test where a run keeps networks and states."""

from hrm_offline.solve.paths import network_path, state_folder


def test_every_group_has_a_network_and_a_state_of_its_own(tmp_path):
    groups = range(1200)
    paths = [*(network_path(tmp_path, group) for group in groups), *(state_folder(tmp_path, group) for group in groups)]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {tmp_path}
