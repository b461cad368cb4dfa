"""Test files that are written whole or not at all, and read without trust."""

import json
import os
import stat
import subprocess
import sys

import pytest
from tensor_files import entry, write_tensors

from hrm_offline.common.errors import InputError, shown
from hrm_offline.common.files import read_json, read_tensor_header, require_writable, write_json, written


def test_a_well_formed_header_is_read(tmp_path):
    header = {
        "__metadata__": {"a": "b"},
        "later": entry(4, 4, (0, 3), "BF16"),
        "first": entry(),
        "last": entry(4, 8, ()),
    }
    found = read_tensor_header(write_tensors(tmp_path / "t", header, 8))
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == {
        "later": ("BF16", (0, 3)),
        "first": ("F32", (1,)),
        "last": ("F32", ()),
    }


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": entry(0, 8)}, "has 8 bytes"),
        ({"a": entry(4, 8)}, "begins at byte 4"),
        ({"a": entry(0, 0, (0,)), "b": entry(2**62, 2**62 + 4)}, "begins at byte"),
        ({"a": entry(), "b": entry()}, "begins at byte 0"),
        ({"a": entry(), "b": entry(2, 6)}, "begins at byte 2"),
        ({"a": entry(), "b": entry(4, 8)}, "tensors have 8 bytes, the file has 4"),
        ({"a": entry(0, 2, (1,), "F16")}, "tensors have 2 bytes, the file has 4"),
        ({}, "tensors have 0 bytes"),
        ({"a": entry(4, 0)}, "has -4 bytes"),
        ({"a": entry(-4, 0)}, "data_offsets"),
        ({"a": entry(0, True)}, "data_offsets"),
        ({"a": entry(0, 4.0)}, "data_offsets"),
        ({"a": entry(0, 10**400)}, "data_offsets"),
        ({"a": entry(shape=(-1, -1))}, "shape"),
        ({"a": entry(shape=(1.0,))}, "shape"),
        ({"a": entry(shape=[2**62] * 10_000)}, "shape a list of 10000 items"),
        ({"a": entry(shape=[2**32, 2**32])}, "has 4 bytes"),
        ({"a": entry(dtype="F31")}, "dtype 'F31'"),
        ({"a": entry(dtype=["F32"])}, "dtype a list"),
        ({"a": entry(more=1)}, "no dtype"),
        ({"a": {"dtype": "F32"}}, "no dtype"),
        ({"a": None}, "no dtype"),
        ({"x" * 10_000 + "\n": None}, "tensor ''xxx"),
        ([entry()], "a list of 1 item"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "twice"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' * 100_000, "recursion"),
        (b"\xff\xfe{}", "decode"),
        (b"", "Expecting value"),
        (b" " * (2**21 + 1), "header would have 2097153"),
    ],
    ids=shown,
)
def test_headers_that_make_no_sense_are_refused(tmp_path, header, reason):
    with pytest.raises(InputError, match="not a safetensors file") as error:
        read_tensor_header(write_tensors(tmp_path / "t.safetensors", header))
    assert reason in str(error.value)
    assert "t.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, (3).to_bytes(8, "little") + b"{}", (2**60).to_bytes(8, "little") + b"{}", b"\xff" * 8]
)
def test_lengths_beyond_the_file_are_refused(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match="its header would have"):
        read_tensor_header(tmp_path / "t")


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_file_that_memory_does_not_hold_is_refused(tmp_path):
    (tmp_path / "c.json").write_text("[" + "[]," * 10**6 + "[]]")
    code = """
import resource, sys
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import read_json
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25,) * 2)
try:
    read_json(sys.argv[1])
except InputError as error:
    sys.exit(0 if "memory" in str(error) else str(error))
sys.exit("it was read")
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("memory in use is read as Linux tells it")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.json")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(read_json(tmp_path / "c.json")) == 10**6 + 1


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    """Where root names /dev/stdout, the system must not lose that."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_json(pipe, [1, 2])
    assert reader.communicate(timeout=30)[0] == b"[1, 2]"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    if os.path.exists("/dev/full"):
        with pytest.raises(InputError, match="cannot be written"), written("/dev/full"):
            write_json("/dev/full", [1])
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_the_folder_of_a_file_to_be_written_is_made(tmp_path):
    with written(tmp_path / "a" / "b" / "c.json"):
        write_json(tmp_path / "a" / "b" / "c.json", {})
    for path in (tmp_path, tmp_path / "a" / "b" / "c.json" / "d.json"):
        with pytest.raises(InputError):
            require_writable(path)
