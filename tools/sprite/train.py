"""Makes everything that is not there yet, then trains the diffusion model: `python -m tools.sprite.train`.

Takes the arguments of `tools.sprite.diffusion`; run it again to go on.
"""

from __future__ import annotations

import sys

from tools.sprite import autoencoder, diffusion

AUTOENCODER_SECONDS = 1800.0


def main() -> int:
    """The command; returns the exit status."""
    if not autoencoder.path().exists():
        autoencoder.train(AUTOENCODER_SECONDS)
    return diffusion.main()


if __name__ == "__main__":
    sys.exit(main())
