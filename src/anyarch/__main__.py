"""`python -m anyarch`"""

import sys

from anyarch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
