"""Every command line that the pages show is one that its command understands."""

import importlib
import re
import shlex

import pytest
from absl import flags

from tests.docs.pages import ROOT

FLAGS = flags.FLAGS
COMMAND = re.compile(r"^ {4,}(python (?:-u )?train_val/(?:experiments/)?\w+\.py.*)$", re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The paper's own, as its users know them.
ORIGINAL = (
    "python train_val/train_meta_optimizer.py --data_dir=... --batch_size=128 --meta_roll_back=10"
    " --resnet_size=20 --model_dir=./resnet_log --keep_prob=0.5 --data_format=channels_last"
    " --meta_lr=1e-2 --epochs_per_eval=250 --problem=resnet --x_use=x --y_use=rnn --CG_iter=4",
    "python train_val/use_meta_resnet_on_imagenet.py --data_dir=... --batch_size=64"
    " --resnet_size=18 --model_dir=./eval_resnet --data_format=channels_last --problem=resnet"
    " --optimizer=meta --lr=1 --meta_ckpt=./resnet_log --x_use=x --y_use=rnn --CG_iter=4",
)


def commands():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in COMMAND.findall(text):
            yield pytest.param(line, id=f"{page.relative_to(ROOT)}-{line[:60].split()[1]}")
    yield from ORIGINAL


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_line_is_understood(line):
    _, *words = shlex.split(line)
    # A word in capitals stands for flags that the text tells.
    script, *given = [word for word in words if word not in ("-u", "SETTINGS")]
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    before = set(FLAGS)
    module.define_flags()
    try:
        assert FLAGS([script, *given]) == [script]
        for argument in given:
            name, _, value = argument.removeprefix("--").partition("=")
            # What was given last stands.
            if [a for a in given if a.startswith(f"--{name}=")][-1] == argument:
                flag = FLAGS[name]
                parsed = flag.parser.parse(value)
                assert flag.value == parsed or flag.value == [parsed]
    finally:
        for name in set(FLAGS) - before:
            delattr(FLAGS, name)


def test_commands_are_found():
    assert len(list(commands())) > 20
