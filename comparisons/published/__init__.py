"""Published figures and the experiments that repeat them: `flowvae reproduce`.

Each module has the recipes of one paper; importing this package registers all of them.
"""

from importlib import import_module
from pkgutil import iter_modules

from flowvae.comparisons.published.recipe import RECIPES, Protocol, Published, Recipe, recipe_of, register
from flowvae.comparisons.published.reproduction import reproduce
from flowvae.comparisons.published.results import read_results
from flowvae.comparisons.published.row import Row

__all__ = ["RECIPES", "Protocol", "Published", "Recipe", "Row", "read_results", "recipe_of", "register", "reproduce"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
