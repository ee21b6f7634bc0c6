"""The page of supported operations is what the rules say."""

import importlib.util

import custom_op
from custom_op import registry
from tests.project import ROOT

DOCS = ROOT / "docs"


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate_supported_ops.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (DOCS / "supported_ops.md").read_text(encoding="utf-8")
    assert page == generate.page(), "run: python docs/generate_supported_ops.py"
    for op_type in custom_op.supported_ops():
        # Other tests may have registered rules of their own.
        if registry.find_rule(op_type).__module__.startswith("custom_op."):
            assert f"`{op_type}`" in page
