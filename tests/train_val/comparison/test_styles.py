import itertools

import numpy as np
import pytest
from matplotlib.markers import MarkerStyle

from train_val.comparison import NAMES
from train_val.comparison.styles import COLORS, ON_DARK, family, styles
from train_val.training import optimizers

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def rgb(color):
    return np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255


def test_an_optimizer_looks_the_same_in_every_picture():
    alone = {name: styles([name])[0] for name in NAMES}
    together = dict(zip(NAMES, styles(NAMES), strict=True))
    for name in NAMES:
        assert (alone[name].color, alone[name].marker) == (
            together[name].color,
            together[name].marker,
        )
    for titles in (
        ["Hessian-free", "hf:cg=4:lr=0.3/1"],
        ["MLHF", "meta:path=convnet"],
        ["K-FAC", "kfac"],
    ):
        assert len({family(title) for title in titles}) == 1
    # Keras' names are told apart from ours by nothing but capitals.
    assert all(family(name) == name.lower() for name in optimizers.KERAS)


def test_no_two_of_the_usual_ones_look_alike_and_variants_differ_by_dashes():
    usual = ["meta", "hf", "hf_lm", "martens", "kfac", "sgd", "momentum", "adam", "rmsprop"]
    looks = [(style.color, style.marker) for style in styles(usual)]
    assert len(set(looks)) == len(usual)
    variants = styles(["hf:cg=2", "adam", "hf:cg=4", "hf:cg=8"])
    dashes = [variants[k].dashes for k in (0, 2, 3)]
    assert len(set(dashes)) == 3 and variants[0].color == variants[2].color
    assert {style.marker for style in styles([*usual, *NAMES])} <= set(MarkerStyle.markers)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colors_differ_for_the_color_blind(kind):
    for colors in (COLORS, ON_DARK.values()):
        seen = [
            np.clip(np.array(BLINDNESS[kind]) @ rgb(color) ** 2.2, 0, 1) ** (1 / 2.2)
            for color in colors
        ]
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 0.15
