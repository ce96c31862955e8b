"""Normalizing flows: frozen specs that build zuko transforms, one family per file.

| name | directions |
| --- | --- |
| `MAF` | one pass per density, D passes per sample: a prior |
| `IAF` | the inverse of `MAF`: a guide |
| `NSF` | `MAF` with splines |
| `TarFlow` | `MAF` whose networks are transformers over tokens of several values |
| `CouplingNSF` | splines, cheap in both directions |
| `RealNVP` | affine coupling, cheap in both directions |
| `NICE` | additive coupling and a diagonal scale, cheap in both directions |
| `BPF` | `MAF` with Bernstein polynomials |
| `CNF` | a neural ODE, equally expensive in both directions |
| `NAF`, `UNAF`, `SOSPF`, `GF` | priors only, not normalized outside a box |
| `Glow` | an image flow, cheap in both directions: a model of data |
| `Residual` | identity plus a contraction; cheap density, samples by a fixed-point iteration: a prior |
| `Linear` | triangular factors: a full-covariance Gaussian |
| `Radial` | contraction or expansion around a point, cheap in both directions |
| `Planar`, `Sylvester` | movement along one direction or several; density by root-finding: guides |
| `Householder` | reflections: a guide |
| `Inverse` | the inverse of any of them |
| `ActNorm`, `Permutation` | layers for use between others |
| `InverseCDFTransform` | maps any continuous distribution on the line to N(0, 1): the universal flow in one dimension |
"""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.core.parts import Cost
from flowvae.flows.autoregressive.bpf import BPF
from flowvae.flows.autoregressive.iaf import IAF
from flowvae.flows.autoregressive.maf import MAF
from flowvae.flows.autoregressive.monotonic import NAF, SOSPF, UNAF
from flowvae.flows.autoregressive.nsf import NSF, CouplingNSF
from flowvae.flows.autoregressive.tarflow import TarFlow
from flowvae.flows.check import check_flow
from flowvae.flows.continuous.cnf import CNF
from flowvae.flows.coupling.nice import NICE
from flowvae.flows.coupling.realnvp import RealNVP
from flowvae.flows.image.glow import Glow, initialize_from_data
from flowvae.flows.inverse import Inverse
from flowvae.flows.layers.actnorm import ActNorm
from flowvae.flows.layers.gaussianization import GF
from flowvae.flows.layers.inverse_cdf import InverseCDFTransform
from flowvae.flows.linear.householder import Householder
from flowvae.flows.linear.linear import Linear
from flowvae.flows.linear.permutation import Permutation
from flowvae.flows.planar.planar import Planar
from flowvae.flows.planar.radial import Radial
from flowvae.flows.planar.sylvester import Sylvester
from flowvae.flows.pyro_adapter import PyroFlow, to_pyro
from flowvae.flows.residual.residual import Residual
from flowvae.flows.spec import FlowSpec

__all__ = [
    "BPF",
    "CNF",
    "GF",
    "IAF",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "SOSPF",
    "UNAF",
    "ActNorm",
    "Cost",
    "CouplingNSF",
    "FlowSpec",
    "Glow",
    "Householder",
    "Inverse",
    "InverseCDFTransform",
    "Linear",
    "Permutation",
    "Planar",
    "PyroFlow",
    "Radial",
    "RealNVP",
    "Residual",
    "Sylvester",
    "TarFlow",
    "check_flow",
    "initialize_from_data",
    "to_pyro",
]
