"""Import zuko without switching off torch's validation of distributions.

zuko switches it off for the whole process, so that Normal(0, -1) is accepted. Packages whose modules use zuko import
this module first.
"""

import sys

import pyro
from torch.distributions import Distribution

__all__: list[str] = []

# Restore the previous state. If zuko was imported before, it is read from Pyro's own flag, which zuko does not change.
_validation = pyro.settings.get("validate_distributions_pyro") if "zuko" in sys.modules else Distribution._validate_args
import zuko  # noqa: E402, F401

Distribution.set_default_validate_args(_validation)
