import csv
import io
import math

import pytest

from igb._checks import InputError
from igb.training.tables import Table, cells

VALUES = [0, -1, 10**12, 0.1, 1e-300, 5e-324, 1e22, 1e16, 123456789.0, math.nan, math.inf, -math.inf, -0.0]
TEXTS = ["cat", "a,b", 'say "cat"', "two\nlines", " blank", "nan", "1e3", "", "Tür", "p̄", "'"]


def test_the_text_is_that_of_the_csv_module():
    expected = io.StringIO()
    csv.writer(expected, lineterminator="\n").writerow([*VALUES, *TEXTS])
    assert ",".join(cells([*VALUES, *TEXTS])) + "\n" == expected.getvalue()


@pytest.mark.parametrize("text", ["\r", "a\rb", "a\r\nb", '"\r,', "\ufeff"])
def test_any_text_comes_back(text):
    assert next(csv.reader(io.StringIO(",".join(cells(["x", text, 1])), newline=""))) == ["x", text, "1"]


def test_rows_are_there_for_readers_at_once_and_added_to_what_is_kept(tmp_path):
    path = tmp_path / "a.csv"
    with Table(path, ["step", "name"]) as table:
        table.write([cells((1, "p̄"))])
        assert path.read_text(encoding="utf-8") == "step,name\n1,p̄\n"
        kept = table.sync()
        assert kept == path.stat().st_size
        table.write([cells((2, "lost")), cells((3, "lost"))])
    again = Table(path, ["step", "name", "newer"], kept)
    assert again.columns == ["step", "name"]
    assert path.read_text(encoding="utf-8").endswith("3,lost\n")
    with again:
        again.write([cells((2, "b"))])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "step,name\n1,p̄\n2,b\n"


def test_a_table_that_lacks_what_was_kept_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv is shorter than when its checkpoint was written"):
        Table(tmp_path / "a.csv", ["step"], 10)
