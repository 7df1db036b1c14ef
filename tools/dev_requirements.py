"""Print the development dependencies of pyproject.toml, one a line (pip before 25.1 cannot install a dependency group)."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(project["dependency-groups"]["dev"]))
