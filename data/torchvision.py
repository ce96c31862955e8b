"""Data sets of torchvision by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flowvae.core.errors import FlowvaeError, check_bool, check_int, nearest, one_line, shown, shown_path
from flowvae.core.parts import LikelihoodSpec, as_likelihood, parse_likelihood
from flowvae.data.dataset import Dataset, DataSpec
from flowvae.data.preparation import prepare
from flowvae.data.reading import data_path
from flowvae.data.torch_items import part_of_items

__all__ = ["Torchvision"]

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}  # torchvision's words


@dataclass(frozen=True)
class Torchvision(DataSpec, name="torchvision"):
    """A data set of torchvision with its own splits, such as FashionMNIST or CIFAR10, with shades 0..255 as counts.

    A split that it does not have, mostly valid, is drawn from train, 15 %, by the run's seed.

    Args:
        name: of the class in `torchvision.datasets`.
        root: the folder where its files are, as torchvision keeps them; `~` is the home directory.
        likelihood: what the shades are, in text form.
        download: whether to download the files that are not there.
        workers: processes that read images anew for every batch; 0: all images are kept in memory.
    """

    title: ClassVar[str] = "a data set of torchvision, such as FashionMNIST"

    name: str
    root: Path
    likelihood: LikelihoodSpec = field(default_factory=lambda: parse_likelihood("binomial:255"))
    download: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise FlowvaeError(f"data.name = {shown(self.name)}: must be the name of a data set of torchvision.")
        object.__setattr__(self, "root", data_path("data.root", self.root, "the path of a folder"))
        object.__setattr__(self, "likelihood", as_likelihood("data.likelihood", self.likelihood))
        check_bool(self, "download")
        check_int(self, "workers", least=0)

    def load(self, seed: int) -> Dataset:
        found = {split: part_of_items(one, self.workers) for split, one in self._open().items()}
        return prepare(
            self.name,
            {split: part for split, (part, _) in found.items()},
            self.likelihood,
            seed,
            name=self.name,
            split="torchvision's",
            preprocessing="none (shades 0..255 as counts)" if str(self.likelihood) == "binomial:255" else "",
            classes=found["train"][1],
        )

    def _open(self) -> dict[str, Any]:
        """The splits that it has."""
        known = _known()
        if self.name not in known:
            raise FlowvaeError(
                f"data.name = {shown(self.name)}: {nearest(self.name, known)} Any other data set: as_data(…) in Python."
            )
        kind = known[self.name]
        settings = {"download": True} if self.download and "download" in inspect.signature(kind).parameters else {}
        splits = {}
        for split, words in SPLITS.items():
            choices: list[dict[str, Any]]
            if "train" in inspect.signature(kind).parameters:
                choices = [] if split == "valid" else [{"train": split == "train"}]
            else:
                choices = [{"split": word} for word in words]
            for choice in choices:
                try:
                    splits[split] = kind(self.root, **choice, **settings)
                except ValueError:  # a word that it does not know
                    continue
                except (RuntimeError, OSError) as error:
                    ask = "" if self.download else ", or let torchvision download them: --data.download"
                    reason = one_line(error).rstrip(".")
                    raise FlowvaeError(
                        f"data.root = {shown_path(self.root)}: no files of {self.name} ({reason}); name "
                        f"the folder that torchvision keeps them in{ask}."
                    ) from None
        if "train" not in splits:
            raise FlowvaeError(f"data.name = {self.name}: has no train split; give it by as_data(…) in Python.")
        return splits


def _known() -> dict[str, Any]:
    """Data sets whose splits are named in one of the two usual ways, and that need no other setting than their root."""
    from torchvision import datasets

    found = {}
    for name in datasets.__all__:
        parameters = inspect.signature(getattr(datasets, name)).parameters
        needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if ("train" in parameters or "split" in parameters) and needed == ["root"]:
            found[name] = getattr(datasets, name)
    return found
