"""Print the development dependencies of pyproject.toml: pip before 25.1 installs no dependency group."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(project["dependency-groups"]["dev"]))
