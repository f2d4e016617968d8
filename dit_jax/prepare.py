"""python -m dit_jax.prepare NAME [--data_dir=DIR]: build a data set."""

import argparse
import sys
import time

from dit_jax.data.sources import BUILDERS, DATA_DIR, prepare


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dit_jax.prepare", description="Build a data set.")
    parser.add_argument("name", help=", ".join(BUILDERS))
    parser.add_argument("--data_dir", default=DATA_DIR, help="where data sets live (default: %(default)s)")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        builder = prepare(args.name, args.data_dir)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    counts = " + ".join(f"{split.num_examples:,} {name}" for name, split in builder.info.splits.items())
    print(f"{args.name}: {counts} examples in {builder.data_dir}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
