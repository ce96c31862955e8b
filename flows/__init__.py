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
| `Inverse` | any of them turned round |
"""

from flowvae.flows.bpf import BPF
from flowvae.flows.bridge import PyroFlow, to_pyro
from flowvae.flows.cnf import CNF
from flowvae.flows.gaussianization import GF
from flowvae.flows.glow import Glow, initialize_from_data
from flowvae.flows.iaf import IAF
from flowvae.flows.inverse import Inverse
from flowvae.flows.maf import MAF
from flowvae.flows.neural import NAF, SOSPF, UNAF
from flowvae.flows.nice import NICE
from flowvae.flows.nsf import NSF, CouplingNSF
from flowvae.flows.realnvp import RealNVP
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
    "Cost",
    "CouplingNSF",
    "FlowSpec",
    "Glow",
    "Inverse",
    "PyroFlow",
    "RealNVP",
    "initialize_from_data",
    "to_pyro",
]
