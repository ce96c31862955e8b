"""Data sets with their splits and event shapes, and reference posteriors."""

from flowvae.core.parts import parse_likelihood
from flowvae.data.access import blocks, first, preview, to_tensor
from flowvae.data.batch import Batch, Source, redrawn
from flowvae.data.conditions import batch_of, condition_of, condition_units, identity_of
from flowvae.data.dataset import DataIdentity, Dataset, DataSpec
from flowvae.data.files.arrays import Arrays
from flowvae.data.files.mapped import Mapped
from flowvae.data.files.posteriordb import REFERENCES, Reference, load_reference
from flowvae.data.files.tables import Table
from flowvae.data.files.torch_items import TorchSource
from flowvae.data.images.folder import Images
from flowvae.data.images.image_data import ImageData
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.data.images.torchvision import Torchvision
from flowvae.data.in_memory import InMemory, as_data
from flowvae.data.published.celeba import CelebA
from flowvae.data.published.colour import CIFAR10, SVHN
from flowvae.data.published.digits import Digits
from flowvae.data.published.matlab import CaltechSilhouettes, FreyFaces
from flowvae.data.published.mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from flowvae.data.published.omniglot import Omniglot
from flowvae.data.published.static_mnist import StaticMNIST
from flowvae.data.simulated.moons import Moons
from flowvae.data.simulated.pinwheel import Pinwheel
from flowvae.data.simulated.sprites import Sprites
from flowvae.data.sources import MappedArray

__all__ = [
    "CIFAR10",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "REFERENCES",
    "SVHN",
    "Arrays",
    "Batch",
    "CaltechSilhouettes",
    "CelebA",
    "DataIdentity",
    "DataSpec",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "FreyFaces",
    "ImageData",
    "Images",
    "InMemory",
    "Mapped",
    "MappedArray",
    "Moons",
    "Omniglot",
    "Pinwheel",
    "Preprocessing",
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
    "condition_units",
    "first",
    "identity_of",
    "load_reference",
    "parse_likelihood",
    "preview",
    "redrawn",
    "to_tensor",
]
