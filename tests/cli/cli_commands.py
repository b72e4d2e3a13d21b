"""Every command of the program, as it is written behind `mats`."""

COMMANDS = [
    "",
    "train",
    "plan-metadata",
    "save-metadata",
    "merge",
    "refresh",
    "predict",
    "evaluate",
    "sweep",
    "report",
    "generate",
    "toxicity",
    "harness",
    "check",
    "inspect",
    "demo",
    "metadata",
    "metadata add",
    "metadata verify",
    "metadata compress",
    "metadata proxy",
    "metadata from-optimizer",
    "metadata export",
    "metadata import",
]

COMMANDS_THAT_WORK = [command for command in COMMANDS if command != "metadata"]
"""Without the one that only gathers others."""
