"""Import zuko without switching off torch's validation of distributions.

zuko switches it off for the whole process, so that Normal(0, -1) passes silently. The packages whose modules use zuko
import this module first.
"""

import sys

import pyro
from torch.distributions import Distribution

__all__: list[str] = []

# Leave it as it was; where zuko came first, Pyro's own flag, which zuko does not touch, tells how that was.
_validation = pyro.settings.get("validate_distributions_pyro") if "zuko" in sys.modules else Distribution._validate_args
import zuko  # noqa: E402, F401

Distribution.set_default_validate_args(_validation)
