"""Sample: python sample.py --workdir=runs/digits --num=64 --out=samples; it is dit_jax/sample_cli.py."""

from dit_jax.sample_cli import command

if __name__ == "__main__":
    command()
