"""A class-conditional VAE: p(x given c), generation by class, and classification by Bayes."""

from flowvae import MAF, Condition, Experiment, train


def experiment() -> Experiment:
    """Digits given their class, which prior, encoder and guide read. The decoder could too: decoder=True."""
    return Experiment(prior=MAF(), condition=Condition(on="labels", decoder=False))


if __name__ == "__main__":
    run = train(experiment(), "runs/by-class")
    images = run.sample(10, c=list(range(10)))  # one of each class
    test = run.data.test[:100]
    log_posterior = run.classify(test)  # log p(c given x), shape (100, 10)
    print((log_posterior.argmax(1) == run.data.labels["test"][:100]).float().mean())
