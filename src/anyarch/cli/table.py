"""The commands: all that `--help` and completion need of one before it is chosen."""

from __future__ import annotations

__all__ = ["ALIASES", "COMMANDS", "HIDDEN", "LATER"]

COMMANDS = {
    "build": ("anyarch.cli.commands.build", "Build an image for one or many platforms"),
    "run": ("anyarch.cli.commands.run", "Run a program of an image, emulated where needed"),
    "imagetools create": (
        "anyarch.cli.commands.imagetools_create",
        "Make an index out of images that are there already",
    ),
    "create": ("anyarch.cli.commands.create", "Create a builder instance, or a node for one"),
    "ls": ("anyarch.cli.commands.ls", "List builder instances and their nodes"),
    "inspect": ("anyarch.cli.commands.inspect", "Show a builder instance"),
    "use": ("anyarch.cli.commands.use", "Choose the builder for commands that name none"),
    "rm": ("anyarch.cli.commands.rm", "Remove builder instances"),
    "stop": ("anyarch.cli.commands.stop", "Stop the nodes of a builder instance"),
    "dial-stdio": (
        "anyarch.cli.commands.dial_stdio",
        "Connect standard input and output with a node's API",
    ),
    "imagetools inspect": ("anyarch.cli.commands.imagetools_inspect", "Show an image or index of a registry"),
    "test": ("anyarch.cli.commands.test", "Run a command on every platform of an image"),
    "fetch": (
        "anyarch.cli.commands.fetch",
        "Pin the base images of a Dockerfile and bundle them for builds offline",
    ),
    "copy": (
        "anyarch.cli.commands.copy",
        "Copy images between registries, layouts, archives and stores",
    ),
    "merge": ("anyarch.cli.commands.merge", "Join parts that were built apart to one image"),
    "login": ("anyarch.cli.commands.login", "Log in to a registry"),
    "logout": ("anyarch.cli.commands.logout", "Forget the credentials of a registry"),
    "emulators ls": (
        "anyarch.cli.commands.emulators_ls",
        "Show which platforms this machine can run, and how",
    ),
    "emulators install": (
        "anyarch.cli.commands.emulators_install",
        "Register emulators with the machine, for all its programs",
    ),
    "emulators uninstall": (
        "anyarch.cli.commands.emulators_uninstall",
        "Remove emulators that were registered with emulators install",
    ),
    "history ls": ("anyarch.cli.commands.history_ls", "List the records of builds"),
    "history inspect": ("anyarch.cli.commands.history_inspect", "Show the record of a build"),
    "history inspect attachment": (
        "anyarch.cli.commands.history_attachment",
        "Print what the record of a build refers to",
    ),
    "history logs": ("anyarch.cli.commands.history_logs", "Print the output of a recorded build"),
    "history rm": ("anyarch.cli.commands.history_rm", "Remove records of builds"),
    "du": ("anyarch.cli.commands.du", "Show what the store takes of the disk"),
    "prune": ("anyarch.cli.commands.prune", "Remove what the store does not need to keep"),
    "store check": ("anyarch.cli.commands.store_check", "Check every digest and reference of the store"),
    "completion": ("anyarch.cli.commands.completion", "Print a completion script for a shell"),
    "plugin install": (
        "anyarch.cli.commands.plugin_install",
        "Make anyarch the buildx of the docker command line",
    ),
    "plugin uninstall": (
        "anyarch.cli.commands.plugin_uninstall",
        "Take anyarch away from the docker command line",
    ),
    "version": ("anyarch.cli.commands.version", "Show the version"),
}
ALIASES = {"b": "build"}
HIDDEN = {
    "install": ("anyarch.cli.commands.install", "Set docker's alias of the builder"),
    "uninstall": ("anyarch.cli.commands.uninstall", "Remove docker's alias of the builder"),
}
"""Commands that buildx has deprecated: they work, and are not listed."""
LATER = frozenset(
    [
        "bake",
        "dap",
        "debug",
        "f",
        "history export",
        "history import",
        "history open",
        "history trace",
        "policy",
    ]
)
"""Commands of buildx that this release does not have."""
