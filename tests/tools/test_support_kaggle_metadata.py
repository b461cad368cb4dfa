"""Test the checks of Kaggle's metadata, and the kernel's own."""

import json

import pytest
from places import REPOSITORY

from hrm_offline.common.errors import InputError
from tools import vendor_wheels
from tools.support.kaggle_metadata import check_dataset, check_kernel, check_slug, slugify


def test_kernel_metadata():
    metadata = json.loads((REPOSITORY / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False
    assert metadata["enable_gpu"] is True
    assert metadata["machine_shape"] == "NvidiaL4"
    assert (REPOSITORY / "kernel" / metadata["code_file"]).exists()
    # The platform wants the title's slug to equal the id's.
    assert metadata["title"].lower().replace(" ", "-") == metadata["id"].split("/")[1]
    assert {
        "dataset_sources",
        "competition_sources",
        "kernel_sources",
        "model_sources",
        "language",
        "kernel_type",
        "is_private",
    } <= metadata.keys()


@pytest.fixture
def kernel_metadata():
    text = (REPOSITORY / "kernel" / "kernel-metadata.json").read_text()
    return json.loads(text.replace("YOUR_USERNAME", "somebody").replace("COMPETITION_SLUG", "arc-prize-2026"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"title": "hrm"}, "5 to 50"),
        ({"title": "hrm offline " * 5}, "5 to 50"),
        ({"title": "another name"}, "another-name"),
        ({"id": "somebody"}, "USER/SLUG"),
        ({"id": "Some_body/hrm-offline"}, "Some_body"),
        ({"id": None}, "id is None"),
        ({"enable_internet": True}, "enable_internet is True, expected False"),
        ({"enable_internet": None}, "enable_internet is None, expected False"),
        ({"machine_shape": "NvidiaL5"}, "NvidiaL4X1"),
        ({"accelerator": "NvidiaL4"}, "accelerator"),
        ({"language": "julia"}, "language"),
        ({"is_private": "true"}, "is_private"),
        ({"dataset_sources": ["wheels"]}, "USER/SLUG"),
        ({"competition_sources": ["ARC Prize"]}, "ARC Prize"),
        ({"competition_sources": [5]}, "competition 5"),
        ({"competition_sources": "arc-prize"}, "competition_sources is 'arc-prize'"),
        ({"dataset_sources": [None]}, "dataset_sources: None is not USER/SLUG"),
        ({"dataset_sources": ["datasets/somebody/wheels"]}, "is not USER/SLUG"),
        ({"kernel_sources": ["code/u/k"]}, "kernel_sources: 'code/u/k' is not USER/SLUG"),
        ({"kernel_sources": ["somebody/abc"]}, "expected a slug of 5 characters"),
        ({"kernel_sources": [["somebody/notebook"]]}, "kernel_sources"),
        ({"kernel_sources": "somebody/notebook"}, "kernel_sources is"),
        ({"model_sources": ["a/b/pyTorch"]}, "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
        ({"model_sources": ["google/gemma/pyTorch/2b/latest"]}, "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
        ({"model_sources": ["google/gemma/pyTorch/2b/0"]}, "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
        ({"model_sources": ["google/gemma/pyTorch/2b/1/2"]}, "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
        ({"model_sources": ["google/gem ma/pyTorch/2b/1"]}, "'gem ma' is no name"),
        ({"model_sources": [None]}, "model_sources has None"),
        ({"machine_shape": "NvidiaTeslaT4Highmem"}, "only Kaggle's administrators"),
        ({"machine_shape": "NvidiaTeslaP100"}, "retired"),
        ({"machine_shape": "nvidiaL4"}, "expected one of NvidiaTeslaT4, "),
        ({"machine_shape": ""}, "machine_shape is ''"),
        ({"machine_shape": "TpuV5E8"}, "machine_shape"),
        ({"machine_shape": None}, "machine_shape is None"),
        ({"enable_gpu": 1}, "enable_gpu is 1, expected True"),
        ({"enable_tpu": True}, "enable_tpu"),
        ({"enable_tpu": "false"}, "enable_tpu is 'false', expected a bool"),
        ({"keywords": "gpu"}, "keywords"),
        ({"keywords": [{}]}, "keywords"),
        ({"id_no": True}, "id_no"),
        ({"docker_image_pinning_type": "newest"}, "original, latest"),
        ({"docker_image": 5}, "docker_image is 5"),
        ({"code_file": "../elsewhere.ipynb"}, "code_file"),
        ({"code_file": "script.py"}, "code_file"),
        ({"title": None}, "title is None"),
    ],
)
def test_kernel_metadata_that_kaggle_would_refuse(kernel_metadata, change, said):
    check_kernel(kernel_metadata, "here")
    with pytest.raises(InputError, match=r"^here: ") as error:
        check_kernel(kernel_metadata | change, "here")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"title": "short"}, "6 to 50"),
        ({"id": "somebody/short"}, "6 to 50"),
        ({"subtitle": "too short"}, "20 to 80"),
        ({"licenses": []}, "exactly one"),
        ({"licenses": [{"name": "MIT-0"}]}, "MIT-0"),
        ({"license": "other"}, "'license'"),
        ({"licenses": ["CC0-1.0"]}, 'licenses is ["CC0-1.0"], expected exactly one of the form [{"name"'),
        ({"licenses": {"name": "CC0-1.0"}}, "licenses is an object"),
        ({"licenses": [None]}, "licenses is [null]"),
        ({"licenses": [{"name": ["CC0-1.0"]}]}, "exactly one"),
        ({"licenses": [{"name": "CC0-1.0"}] * 2}, "exactly one"),
        ({"licenses": None}, "licenses is None"),
        ({"id": 7}, "id is 7"),
        ({"id": "somebody/dataset/of-mine"}, "USER/SLUG"),
        ({"title": ["a title"]}, "title is a list of 1 item"),
        ({"subtitle": 5}, "subtitle is 5"),
        ({"subtitle": ""}, "20 to 80"),
        ({"keywords": "arc"}, "keywords"),
        ({"resources": {}}, "resources"),
        ({"expectedUpdateFrequency": "often"}, "expected one of not specified, never"),
    ],
)
def test_dataset_metadata_that_kaggle_would_refuse(change, said):
    metadata = vendor_wheels.dataset_metadata("somebody", ["a.whl"])
    check_dataset(metadata, "here")
    with pytest.raises(InputError, match=r"^here: ") as error:
        check_dataset(metadata | change, "here")
    assert said in str(error.value)


def test_slugs():
    assert slugify("HRM offline: 2nd try") == "hrm-offline-2nd-try"
    check_slug("arc-prize-2026", "competition")
    for wrong in ("", "Arc", "arc prize", "-arc", "arc--prize", "arc/prize", "arc_prize"):
        with pytest.raises(InputError, match="competition"):
            check_slug(wrong, "competition")


def test_what_kaggle_takes_passes(kernel_metadata):
    sources = {
        "kernel_sources": ["somebody/notebook"],
        "model_sources": ["google/gemma-2/pyTorch/gemma_2b.v1/12"],
        "keywords": ["gpu"],
        "docker_image_pinning_type": "original",
    }
    check_kernel(kernel_metadata | sources, "here")
    check_kernel(kernel_metadata | dict.fromkeys(["enable_tpu", *sources]), "here")  # null: the client's default
    for machine in ("NvidiaL4", "NvidiaL4X1", "NvidiaTeslaT4", "NvidiaTeslaA100", "NvidiaH100", "NvidiaRtxPro6000"):
        check_kernel(kernel_metadata | {"machine_shape": machine}, "here")
    metadata = vendor_wheels.dataset_metadata("somebody", ["a.whl"])
    check_dataset(metadata | {"subtitle": None, "licenses": [{"name": "CC0-1.0", "title": "ignored"}]}, "here")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_metadata_that_is_no_object_is_one_line(value):
    for check in (check_kernel, check_dataset):
        with pytest.raises(InputError, match="expected an object"):
            check(value, "here")
