"""Data sets with their splits and event shapes, and reference posteriors."""

from flowvae.core.parts import parse_likelihood
from flowvae.data.access import blocks, first, preview, to_tensor
from flowvae.data.arrays import Arrays
from flowvae.data.batch import Batch, Source
from flowvae.data.conditions import batch_of, condition_of, identity_of
from flowvae.data.dataset import DataIdentity, Dataset, DataSpec
from flowvae.data.digits import Digits
from flowvae.data.images import Images
from flowvae.data.in_memory import InMemory, as_data
from flowvae.data.mapped import Mapped
from flowvae.data.posteriordb import REFERENCES, Reference, load_reference
from flowvae.data.simulated.moons import Moons
from flowvae.data.simulated.pinwheel import Pinwheel
from flowvae.data.simulated.sprites import Sprites
from flowvae.data.sources import MappedArray
from flowvae.data.static_mnist import StaticMNIST
from flowvae.data.tables import Table
from flowvae.data.torch_items import TorchSource
from flowvae.data.torchvision import Torchvision

__all__ = [
    "REFERENCES",
    "Arrays",
    "Batch",
    "DataIdentity",
    "DataSpec",
    "Dataset",
    "Digits",
    "Images",
    "InMemory",
    "Mapped",
    "MappedArray",
    "Moons",
    "Pinwheel",
    "Reference",
    "Source",
    "Sprites",
    "StaticMNIST",
    "Table",
    "TorchSource",
    "Torchvision",
    "as_data",
    "batch_of",
    "blocks",
    "condition_of",
    "first",
    "identity_of",
    "load_reference",
    "parse_likelihood",
    "preview",
    "to_tensor",
]
