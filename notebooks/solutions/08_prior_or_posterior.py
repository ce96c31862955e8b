"""Solutions to the exercises of `08_prior_or_posterior.ipynb`."""

import math
from dataclasses import replace

from flowvae import NSF, Experiment
from flowvae.comparisons.engine.parameter_matching import count_parameters, widen_decoder


def paired(a, b):
    """Exercise 1. The differences within seeds are the data; their mean has the standard error sd / √n."""
    differences = a - b
    return differences.mean(), differences.std(ddof=1) / math.sqrt(len(differences))


# Exercise 2. The target is the count of the flow arm; prior and encoder stay those of the baseline.
base, flow = Experiment(), replace(Experiment(), prior=NSF(transforms=4))
digits = base.data.load(0)
answer_2 = widen_decoder(base, digits, count_parameters(flow, digits))

# Exercise 3. An arm that has all that comes along with the change, and not the change.
answer_3 = {
    "capacity: a flow prior wins only because it has more parameters": ("prior-flow", "wider"),
    "capacity: a flow prior is only a deeper decoder": ("prior-flow", "in-decoder"),
    "holes: fine-tuning with a flow wins only because it trains longer": ("fine-tuned", "trained-on"),
    "prior-or-posterior: a flow in the guide helps although it is the same for every x": ("guide-static", "normal"),
}

# Exercise 4. Sorted: 0.008 · 4 = 0.032; 0.020 · 3 = 0.060; 0.021 · 2 = 0.042, but not below the one before: 0.060;
# 0.200 · 1 = 0.200. In the order of the question:
answer_4 = [0.060, 0.060, 0.032, 0.200]
