"""Kills commands whose output is in a bucket: python -m tests.bucket_kills --count=20 --scheme=s3

Each command is run once undisturbed, in a local folder. Then, so often as asked for: started with
its output in an empty folder of a bucket, killed with SIGKILL at a random moment, started there
again on another machine, which is another folder of local copies, up to four times in a row, and
then run to its end on one more. What the bucket then holds must be bitwise the local result. The
servers are those of the tests. A table is printed; the status is 1 unless all are right.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

from m2dit_jax.utils.remote.bucket import Bucket
from m2dit_jax.utils.remote.cache import CACHE
from m2dit_jax.utils.remote.mirror import Mirror
from m2dit_jax.utils.remote.places import PUSH_SECONDS
from tests.buckets import BUCKET, SERVERS
from tests.faults import Command, clear
from tests.interrupts import flags_of_campaign, run_campaign

COMMANDS = ("train", "sample", "encode")


def in_bucket(command: Command, scheme: str, machines: Path) -> Command:
    """The command with its output in the bucket; each start is on a machine of its own.

    `machines` is the folder of their local copies.
    """
    number = itertools.count()

    def address(out: Path) -> str:
        return f"{scheme}://{BUCKET}/{out.name}"

    def digest(out: Path) -> str:
        copy = machines / "digest" / out.name
        Mirror(Bucket(address(out)), copy).pull()
        return command.digest(copy)

    def clear_both(out: Path) -> None:
        clear(out)
        shutil.rmtree(machines, ignore_errors=True)
        bucket = Bucket(address(out))
        bucket.delete(list(bucket.objects()))

    return Command(
        lambda out: [flag.replace(str(out), address(out)) for flag in command.flags(out)],
        digest,
        clear=clear_both,
        env=lambda: {CACHE: str(machines / str(next(number))), PUSH_SECONDS: "0.5"},
        where=f" in {scheme}",
        longer=1.5,
    )


def main() -> int:
    """Runs the campaign and prints its table."""
    parser = flags_of_campaign(__doc__)
    parser.add_argument("--scheme", choices=SERVERS, required=True)
    parser.set_defaults(
        commands=list(COMMANDS), signal="kill", work=Path("/tmp/m2dit_bucket_kills")
    )
    flags = parser.parse_args()
    if unknown := set(flags.commands) - set(COMMANDS):
        parser.error(f"--commands: found {', '.join(sorted(unknown))}, needs {', '.join(COMMANDS)}")
    with SERVERS[flags.scheme]() as environment:
        os.environ.update(environment)
        machines = flags.work / "machines"
        return run_campaign(flags, lambda command: in_bucket(command, flags.scheme, machines))


if __name__ == "__main__":
    sys.exit(main())
