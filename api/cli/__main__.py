"""`python -m flowvae.cli`."""

import sys

from flowvae.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
