"""From words to a run: experiments, their serialization, training and the run directory."""
