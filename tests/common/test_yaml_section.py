"""Test the reader of one section of a YAML file, on text as published training scripts write it."""

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.yaml_section import read_section

# In the form that the published scripts write, which sort the names and fold long lines.
WRITTEN = """\
arch:
  H_cycles: 3
  expansion: 4
  forward_dtype: bfloat16
  halt_exploration_prob: 0.1
  loss:
    loss_type: stablemax_cross_entropy
    H_cycles: 7
  mlp_t: false
  name: recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1
  nothing: null
  puzzle_emb_ndim: ${.hidden_size}
  rms_norm_eps: 1.0e-05
beta1: 0.9
checkpoint_path: checkpoints/Arc/A long
  name
data_paths:
- data/arc
H_cycles: 9
"""


def read(tmp_path, text):
    path = tmp_path / "all_config.yaml"
    path.write_text(text)
    return read_section(path, "arch")


def test_a_section_as_published_scripts_write_it(tmp_path):
    assert read(tmp_path, WRITTEN) == {
        "H_cycles": 3,
        "expansion": 4,
        "forward_dtype": "bfloat16",
        "halt_exploration_prob": 0.1,
        "mlp_t": False,
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "nothing": None,
        "rms_norm_eps": 1e-5,
    }


def test_comments_quotes_and_lists(tmp_path):
    text = (
        "# a run\narch:   # the network\n\n    # heads\n    num_heads: 8  # of 64\n    name: 'a # b'\n    l:\n    - 1\n"
    )
    assert read(tmp_path, text) == {"num_heads": 8, "name": "a # b"}
    assert read(tmp_path, "archs:\n  a: 1\n") is None
    assert read(tmp_path, "arch:\nb: 1\n") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arch:\n  a: 1\n  a: 2\n", "line 3"),
        ("arch:\n    a: 1\n  b: 2\n", "line 3"),
        ("arch:\n\ta: 1\n", "line 2"),
        ("arch:\n  a: {b: 1}\n", "'a' is '{b: 1}', no plain value"),
        ("arch:\n  a: &x 1\n", "no plain value"),
        ("arch:\n  just text\n", "line 2"),
        ("arch:\n  a: 1\n" + "x" * 2**20, "more than"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(tmp_path, text, said):
    with pytest.raises(InputError, match=r"all_config\.yaml") as error:
        read(tmp_path, text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    for path, said in ((tmp_path / "a", "no text"), (tmp_path / "b", "cannot be read")):
        with pytest.raises(InputError, match=said):
            read_section(path, "arch")
