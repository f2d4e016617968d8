"""Train: python train.py --config=digits --workdir=runs/digits; it is dit_jax/train.py."""

from dit_jax.train import command

if __name__ == "__main__":
    command()
