"""A published block of width 2304 and depth 40, 3.8 G parameters, on 256 x 256 pictures in latents: for plans."""

from dit_jax.configs import imagenet256


def get_config():
    config = imagenet256.get_config("dit_xl2")
    config.model.update(width=2304, depth=40, heads=18, remat="full")
    config.data.batch_size = 2048
    return config
