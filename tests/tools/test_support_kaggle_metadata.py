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
