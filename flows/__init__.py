"""Normalizing flows, one family a file, each a frozen spec over zuko.

| name | directions |
| --- | --- |
| `MAF` | one pass to score, D passes to sample: a prior |
| `IAF` | its inverse: a guide |
| `NSF` | `MAF` with splines |
| `CouplingNSF` | splines, cheap both ways |
| `RealNVP` | affine coupling, cheap both ways |
| `NICE` | additive coupling and a diagonal scale, cheap both ways |
| `BPF` | `MAF` with Bernstein polynomials |
| `CNF` | a neural ODE, as dear one way as the other |
| `NAF`, `UNAF`, `SOSPF`, `GF` | priors only, not normalized beyond a box |
| `Glow` | an image flow, cheap both ways: a model of data |
| `Residual` | a contraction added; cheap to score, a fixed point to sample: a prior |
| `Linear` | triangular factors: a full-covariance Gaussian |
| `Radial` | towards a point or away from it, cheap both ways |
| `Planar`, `Sylvester` | along one direction, along several; root-finding to score: guides |
| `Householder` | reflections: a guide |
| `Inverse` | the inverse of any of them |
| `ActNorm`, `Permutation` | layers to go between others |
| `InverseCDFTransform` | any distribution on the line, and N(0, 1): the universal flow in one dimension |
"""

from flowvae.flows.actnorm import ActNorm
from flowvae.flows.bpf import BPF
from flowvae.flows.bridge import PyroFlow, to_pyro
from flowvae.flows.check import check_flow
from flowvae.flows.cnf import CNF
from flowvae.flows.gaussianization import GF
from flowvae.flows.glow import Glow, initialize_from_data
from flowvae.flows.householder import Householder
from flowvae.flows.iaf import IAF
from flowvae.flows.inverse import Inverse
from flowvae.flows.inverse_cdf import InverseCDFTransform
from flowvae.flows.linear import Linear
from flowvae.flows.maf import MAF
from flowvae.flows.neural import NAF, SOSPF, UNAF
from flowvae.flows.nice import NICE
from flowvae.flows.nsf import NSF, CouplingNSF
from flowvae.flows.permutation import Permutation
from flowvae.flows.planar import Planar
from flowvae.flows.radial import Radial
from flowvae.flows.realnvp import RealNVP
from flowvae.flows.residual import Residual
from flowvae.flows.spec import Cost, FlowSpec
from flowvae.flows.sylvester import Sylvester

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
    "check_flow",
    "initialize_from_data",
    "to_pyro",
]
