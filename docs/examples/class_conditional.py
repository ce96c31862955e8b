"""A class-conditional VAE: p(x | c), generation by class, and classification by Bayes' rule."""

from flowvae import MAF, Condition, Experiment, train


def experiment() -> Experiment:
    """Digits given their class, which prior, encoder and guide read; with decoder=True the decoder reads it, too."""
    return Experiment(prior=MAF(), condition=Condition(on="labels", decoder=False))


if __name__ == "__main__":
    run = train(experiment(), "runs/by-class")
    images = run.sample(10, c=list(range(10)))  # one per class
    test = run.data.test[:100]
    log_posterior = run.classify(test)  # log p(c | x), shape (100, 10)
    print((log_posterior.argmax(1) == run.data.labels["test"][:100]).float().mean())
