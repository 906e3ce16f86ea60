"""The tutorial as it lies in docs/; `make tutorial` executes it."""

import json
import re
from pathlib import Path

CELLS = json.loads((Path(__file__).parent.parent / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]


def test_every_cell_was_executed_in_order_without_an_error():
    codes = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == [*range(1, len(codes) + 1)]
    assert [output for cell in codes for output in cell["outputs"] if output["output_type"] == "error"] == []


def test_its_outputs_are_tables_and_figures_and_name_no_machine():
    outputs = [output for cell in CELLS if cell["cell_type"] == "code" for output in cell["outputs"]]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 3
    texts = [output for output in outputs if output not in figures]
    assert len(texts) >= 5
    assert not re.search(r"/(home|root|tmp|work|usr|opt)/|Warning", json.dumps(texts))
