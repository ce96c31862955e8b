"""Studies: flow densities, models of data, reference posteriors, distillation, receptive fields."""
