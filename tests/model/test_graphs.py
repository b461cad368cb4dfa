"""Test when work is recorded, and what a trial decides, with a CPU in CUDA's place."""

import pytest
import torch
from fake_cuda import FakeCuda

from hrm_offline.model.graphs import WARM_UP, GraphChoice, Outcome, Recorder, compare_outcomes


def counted(recorder, times, key="a"):
    return [recorder.run(key, (torch.tensor([i]), None), lambda x, nothing: x * 2) for i in range(times)]


def test_a_key_is_recorded_after_its_warm_up_and_replays_read_new_inputs():
    cuda = FakeCuda()
    recorder = Recorder(GraphChoice(cuda, True))
    assert [int(result) for result in counted(recorder, 6)] == [0, 2, 4, 6, 8, 10]
    assert cuda.captures == 1
    assert cuda.replays == 6 - WARM_UP
    recorder.clear()
    counted(recorder, WARM_UP)
    assert cuda.captures == 1
    counted(recorder, 1)
    assert cuda.captures == 2


def test_a_failure_turns_recordings_off_for_later_recorders_too():
    choice = GraphChoice(FakeCuda([RuntimeError("not permitted")]), True)
    assert [int(result) for result in counted(Recorder(choice), 5)] == [0, 2, 4, 6, 8]
    assert str(choice) == "CUDA graphs off: recording failed: RuntimeError: not permitted"
    assert not Recorder(choice).on


@pytest.mark.parametrize("message", ["CUDA out of memory", "CUDA error: an illegal memory access was encountered"])
def test_lack_of_memory_and_a_lost_device_are_raised(message):
    choice = GraphChoice(FakeCuda([RuntimeError(message)]), True)
    recorder = Recorder(choice)
    with pytest.raises(RuntimeError, match=message):
        counted(recorder, 5)
    assert recorder.on


def test_a_cpu_records_nothing():
    for setting in ("measured", "yes", "no"):
        choice = GraphChoice.of(setting, torch.device("cpu"))
        assert (choice.cuda, choice.serves, choice.reason) == (None, False, None)


def outcome(number, seconds=1.0):
    return Outcome(seconds, (torch.tensor([1.0, number]), torch.tensor([3])))


@pytest.mark.parametrize(
    ("recorded", "again", "serves"),
    [
        (outcome(0.5, 0.9), None, True),
        (outcome(0.5, 1.1), None, False),
        (outcome(0.6, 0.9), outcome(0.5), False),  # plain runs repeat bit for bit
        (outcome(0.6, 0.9), outcome(0.55), True),  # plain runs differ too
        (outcome(0.9, 0.9), outcome(0.55), False),
        (outcome(float("nan"), 0.9), outcome(0.55), False),
    ],
)
def test_equal_and_faster_recordings_serve(recorded, again, serves):
    assert compare_outcomes(outcome(0.5), recorded, lambda: again)[0] is serves


def test_infinite_numbers_may_be_the_same():
    plain, recorded, again = (Outcome(1.0 - 0.1 * i, (torch.tensor([-torch.inf, 1.0 + 0.1 * i]),)) for i in range(3))
    assert not compare_outcomes(plain, recorded, lambda: plain)[0]
    assert compare_outcomes(plain, recorded, lambda: again)[0]
    assert not compare_outcomes(plain, Outcome(0.5, (torch.tensor([1.0, -torch.inf]),)), lambda: again)[0]
