"""The sample command, python -m dit_jax.sample: see sample_cli.py.

Nothing is imported from here, because that would hide `dit_jax.sample`, the function.
"""

from dit_jax.sample_cli import command

if __name__ == "__main__":
    command()
