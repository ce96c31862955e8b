"""Every recipe states its protocol and its figures as they are published, and is an experiment that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison_cases import loaded

from flowvae import Experiment, FlowvaeError, StaticMNIST
from flowvae.comparisons import question_of
from flowvae.comparisons.published import RECIPES, Protocol, Published, Recipe, recipe_of, register
from flowvae.comparisons.published.recipe import MARKS, MEASURES

# (value, mark) of the figure that a recipe repeats, as they stand in the papers
FIRST = {
    "static-mnist-normal": (88.56, "†"),
    "static-mnist-vamp": (85.57, ""),
    "static-mnist-maf": (85.57, ""),
    "static-mnist-nsf": (85.57, ""),
    "static-mnist-resnet-realnvp": (79.99, "‡"),
    "static-mnist-resnet-normal": (82.95, "‡"),
    "dynamic-mnist-normal": (84.45, ""),
    "dynamic-mnist-vamp": (82.43, ""),
    "dynamic-mnist-exemplar": (82.09, ""),
    "dynamic-mnist-nsf": (79.71, "†"),
    "dynamic-mnist-coupling-nsf": (79.63, "†"),
    "dynamic-mnist-resnet-normal": (81.3, "†"),
    "fashion-mnist-normal": (228.70, ""),
    "fashion-mnist-maf": (227.35, ""),
    "fashion-mnist-exemplar": (226.75, ""),
    "static-mnist-conv-normal": (86.55, ""),
    "static-mnist-conv-iaf": (84.20, ""),
    "omniglot-conv-sylvester": (99.00, ""),
    "frey-faces-conv-planar": (4.40, ""),
    "caltech-silhouettes-conv-normal": (110.80, ""),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_published_figure_and_its_mark(name: str) -> None:
    first = RECIPES[name].published[0]
    assert (first.value, first.mark) == FIRST[name]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_complete(recipe: Recipe) -> None:
    assert recipe.published
    assert recipe.source
    assert recipe.files
    assert recipe.seeds
    assert recipe.protocol.measure in MEASURES
    assert {figure.mark for figure in recipe.published} <= MARKS.keys()
    assert str(recipe.protocol.test) in str(recipe.protocol)
    assert str(recipe.protocol.draws) in str(recipe.protocol) or not MEASURES[recipe.protocol.measure].draws
    experiment = recipe.build("somewhere")
    assert [str(path) for path in experiment.data.paths.values()] == ["somewhere"]
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    assert experiment.inference.kl_warmup < experiment.inference.epochs


def test_the_published_architecture() -> None:
    experiment = RECIPES["static-mnist-normal"].build()
    assert experiment.latent == 40
    assert experiment.encoder == experiment.decoder
    assert experiment.encoder.hidden_features == (300, 300)  # type: ignore[attr-defined]
    assert experiment.encoder.gated  # type: ignore[attr-defined]
    assert isinstance(experiment.data, StaticMNIST)
    sylvester = RECIPES["static-mnist-conv-sylvester"].experiment
    assert sylvester["latent"] == 64
    settings = {"batch_size": 100, "learning_rate": 5e-4, "kl_warmup": 100, "patience": 100}
    assert settings.items() <= sylvester["inference"].items()


def test_recipes_that_differ_in_the_prior_alone() -> None:
    normal, maf = (dict(RECIPES[f"static-mnist-{prior}"].experiment) for prior in ("normal", "maf"))
    assert normal.pop("prior") != maf.pop("prior")
    assert normal == maf


def recipe(**changes: object) -> Recipe:
    settings = {
        "name": "mine",
        "title": "mine",
        "source": "nobody",
        "published": (Published(1.0, "mine"),),
        "protocol": Protocol("coins", "none", 10),
        "experiment": {"data": {"family": "digits"}},
        "files": "no files",
    }
    return Recipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"name": "static-mnist-normal"}, ["static-mnist-normal"]),
        ({"name": "../mine"}, ["../mine"]),
        ({"protocol": Protocol("coins", "none", 10, "nlll")}, ["nlll", "nll"]),
        ({"published": (Published(1.0, "mine", "§"),)}, ["§", "†", "‡"]),
    ],
    ids=["taken", "path", "measure", "mark"],
)
def test_a_recipe_that_cannot_be_registered(changes: dict[str, object], values: list[str]) -> None:
    before = dict(RECIPES)
    with pytest.raises(FlowvaeError) as info:
        register([recipe(**changes)])
    assert all(value in str(info.value) for value in values)
    assert before == RECIPES


def test_mistakes() -> None:
    with pytest.raises(FlowvaeError, match="static-mnist-normal"):
        recipe_of("static-mnist-norml")
    with pytest.raises(FlowvaeError, match="file"):
        recipe().build("coins.npy")  # digits are not read from a file
    with pytest.raises(FlowvaeError, match=r"mine.*nonsense"):
        recipe(experiment={"prior": "nonsense"}).build()


@pytest.mark.parametrize("prior", ["normal", "maf", "vamp"])
def test_a_question_of_fixed_mnist_has_the_arms_of_the_recipes(prior: str) -> None:
    """They share their cells: what one has trained, the other only measures."""
    data = loaded("static-mnist")
    arms = question_of("learned-priors").experiments("static-mnist", "hour", path=Path("bits.npz"), data=data)
    assert arms[prior] == RECIPES[f"static-mnist-{prior}"].build("bits.npz")
