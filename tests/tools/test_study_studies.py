"""Test the studies as they are declared."""

import dataclasses

import pytest
from small_studies import SCALE, STUDIES

from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import preset
from tools.study.studies import studies_of
from tools.study.study import plan
from tools.study.trial import Trial, configs_of, tasks_of


def test_every_study_can_be_run_and_its_findings_are_about_its_arms():
    names = plan(list(STUDIES), SCALE, tasks_of(SCALE.tasks))  # every network and recipe there is
    for study in STUDIES:
        arms = {arm.name for arm in study.arms}
        assert len(arms) == len(study.arms) >= 3, study.name
        assert study.findings
        assert {finding.arm for finding in study.findings} <= arms
        assert {finding.baseline for finding in study.findings} <= arms | {None}
        runs = [names[0][study.name, arm] for arm in arms]
        assert len(set(runs)) == len(runs), study.name
    assert set(names[0].values()).isdisjoint(names[1].values())


def test_the_studies_are_those_of_the_analysis_and_its_open_questions():
    assert [study.name for study in STUDIES] == [
        "architecture",
        "outer-loop",
        "inference-loop",
        "transfer",
        "augmentation",
        "vote-pool",
        "halting",
        "per-task",
        "conditioning",
        "augmentation-kinds",
        "induction",
        "ingredients",
    ]
    assert [study.name for study in STUDIES if not study.in_all] == ["ingredients"]


def test_all_ingredients_together_change_network_and_recipe():
    arms = {arm.name: arm for arm in next(study for study in STUDIES if study.name == "ingredients").arms}
    whole, recipe, _ = configs_of(Trial(arms["all changed"].learn, 0, "hrm-132k", "small", 1), "all")
    assert (whole.layer_passes, whole.halt_max_steps, whole.prefix_tokens, whole.pre_norm) == (4, 1, 0, True)
    assert (recipe.optimizer, recipe.lr, recipe.tokens_per_step) == ("normuon", 0.002, 2000)
    without, recipe, _ = configs_of(Trial(arms["all but NorMuon"].learn, 0, "hrm-132k", "small", 1), "all")
    assert (without, recipe.optimizer, recipe.lr) == (whole, "adam-atan2", 0.003)


def test_the_architectures_compared_have_the_sizes_they_say():
    arms = next(study for study in STUDIES if study.name == "architecture").arms
    configs = {arm.name: configs_of(Trial(arm.learn, 0, "hrm-132k", "small", 1), arm.name)[0] for arm in arms}
    size = {name: sum(p.numel() for p in RecursiveModel(config, 1).parameters()) for name, config in configs.items()}
    assert size["Transformer"] == size["shared, same size"] == size["HRM"]
    passes = {name: config.layer_passes for name, config in configs.items()}
    assert passes["Transformer"] == passes["shared, same compute"] == passes["HRM"]


@pytest.mark.parametrize("name", ["hrm-27m", "hrm-13m"])
def test_the_studies_can_be_planned_for_larger_presets(name):
    """Plan the studies without the one arm that needs an artifact, which these presets lack."""
    studies, scale = studies_of(preset(name).model), dataclasses.replace(SCALE, preset=name, seeds=(0,))
    planned = plan(list(studies), scale, tasks_of(SCALE.tasks))[0]
    arms = {(study.name, arm.name) for study in studies for arm in study.arms}
    assert planned.keys() == arms - {("transfer", "the package's artifact")}
    configs = {arm.name: configs_of(Trial(arm.learn, 0, name, "small", 1), arm.name)[0] for arm in studies[0].arms}
    assert configs["shared, same compute"].layer_passes == configs["HRM"].layer_passes
    if name == "hrm-27m":
        assert configs["Transformer"] == preset("transformer-27m").model
