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

from flowvae.flows.autoregressive.bpf import BPF
from flowvae.flows.autoregressive.iaf import IAF
from flowvae.flows.autoregressive.maf import MAF
from flowvae.flows.autoregressive.monotonic import NAF, SOSPF, UNAF
from flowvae.flows.autoregressive.nsf import NSF, CouplingNSF
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
from flowvae.flows.spec import Cost, FlowSpec

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
