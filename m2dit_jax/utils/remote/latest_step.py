"""Prints the step of the newest checkpoint of a run in a bucket, 0 if there is none.

For launchers, which see by it whether a run that ended got any further.
"""

import json
import re
import sys

from m2dit_jax.utils.remote.bucket import Bucket
from m2dit_jax.utils.remote.mirror import INDEX


def latest_step(url: str) -> int:
    """The step. Raises BucketError if the bucket cannot be read."""
    index = json.loads(Bucket(url).read(INDEX) or b'{"files": {}}')
    found = (re.match(r"checkpoints/(\d+)/", name) for name in index["files"])
    return max((int(match[1]) for match in found if match), default=0)


if __name__ == "__main__":
    try:
        print(latest_step(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
