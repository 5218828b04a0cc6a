"""What the fixtures' README says about weights and inputs, so that the tests can build them."""

import zlib

import numpy as np


def _random_state(name, seed):
    return np.random.RandomState((zlib.crc32(name.encode("ascii")) + seed) % 2**32)


def recipe_weight(name, shape, seed):
    """A tensor of the fixtures' network by its PaddlePaddle 1.x name."""
    rs = _random_state(name, seed)
    if name.startswith("batch_norm"):
        values = 0.5 + rs.random_sample(shape) if name.endswith(("w_0", "w_2")) else 0.1 * rs.standard_normal(shape)
    elif name.endswith(".b_0"):
        values = 0.1 * rs.standard_normal(shape)
    elif name.startswith("conv2d_transpose"):
        values = rs.standard_normal(shape) * np.sqrt(2.0 / (shape[0] * shape[2] * shape[3] / 4.0))
    else:
        values = rs.standard_normal(shape) * np.sqrt(1.0 / (shape[1] * shape[2] * shape[3]))
    return values.astype(np.float32)


def recipe_input(tag, shape, seed):
    """A network input of the fixtures by its tag."""
    return _random_state(tag, seed).standard_normal(shape).astype(np.float32)


def recipe_network(depth, joints, seed, init="kaiming"):
    """PoseResNet with the fixtures' weights, and {PaddlePaddle 1.x name: array}."""
    from simplebaseline_paddle.checkpoint import put_weights
    from simplebaseline_paddle.model import PoseResNet
    from simplebaseline_paddle.names import fluid_names, from_fluid

    model = PoseResNet(depth, joints)
    own = model.state_dict()
    fluid = {name: recipe_weight(name, tuple(own[ours].shape), seed) for name, ours in fluid_names(depth).items()}
    put_weights(model, from_fluid(fluid), "recipe")
    return model, fluid
