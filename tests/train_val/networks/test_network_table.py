"""The table of networks: one row, and every command line knows the name."""

import pytest

from train_val import task_families
from train_val.networks import network_table
from train_val.problems import image_problems


def test_names_stand_once_and_every_path_leads_to_a_function():
    names = [known.name for known in network_table.TABLE]
    assert names == sorted(set(names))
    for known in network_table.TABLE:
        for path in (known.paper, known.photographs, known.family, known.task):
            assert path is None or callable(network_table.load(path))
    assert list(image_problems.NETWORKS) == list(network_table.TRAINED)
    assert set(network_table.FAMILIES) <= set(task_families.names())  # tests define more


def test_a_name_may_be_a_network_of_the_paper_and_a_family():
    papers = image_problems.make("mlp", "digits", batch_size=8)
    assert papers.model.count_params() == 64 * 20 + 20 + 20 * 10 + 10
    assert papers.model.layers[-2].activation.__name__ == "sigmoid"
    family = task_families.make("mlp:width=16:depth=2", batch_size=8)
    assert family.model.count_params() == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert family.model.layers[-2].activation.__name__ == "tanh"


@pytest.mark.parametrize("resnet_size, title", [(None, "resnet on"), (8, "resnet 8 on")])
def test_a_size_is_for_networks_that_have_one(resnet_size, title):
    def name(network):
        made = image_problems.make(network, "digits", batch_size=8, resnet_size=resnet_size)
        return made.task.name

    assert name("resnet").startswith(title)
    assert name("mlp").startswith("mlp on")
