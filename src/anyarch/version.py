"""The version of this release, kept apart so that `--version` imports nothing else."""

__version__ = "0.1.0"

DOCKERFILE_LINE = "1.26.0"
"""The release of Docker's Dockerfile frontend whose language the built-in one speaks."""
