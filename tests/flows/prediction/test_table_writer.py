import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.prediction.cache import PREDICTION_SCHEMA, PredictionCache
from flows.prediction.table_reader import read_prediction_rows
from flows.prediction.table_writer import write_table
from imageset.exceptions import UserError

ROW = dict.fromkeys(PREDICTION_SCHEMA.names) | {"uri": "a.png", "status": "ok", "model_version": 1}


def test_an_earlier_table_stands_until_the_new_one_is_whole(tmp_path):
    out, parts = tmp_path / "out.parquet", PredictionCache(tmp_path / "parts", "key")
    out.write_bytes(b"earlier")
    from flows.prediction.table_writer import write_output

    with pytest.raises(UserError, match="was damaged since this run began; type the command again"):
        write_output(out, parts, ["a-part-that-is-not-there"], {})
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_many_rows_are_written_in_groups_and_none_is_lost(tmp_path):
    def tables():
        for start in range(0, 10_000, 125):
            rows = [{**ROW, "uri": f"{n}.png"} for n in range(start, start + 125)]
            yield pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)

    write_table(tmp_path / "out.parquet", ".parquet", tables(), {})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["uri"].to_pylist() == [f"{n}.png" for n in range(10_000)]
    assert table.schema.equals(PREDICTION_SCHEMA)
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


def test_a_csv_table_holds_no_formulas_and_is_read_back(tmp_path):
    top = [{"label": "@x", "probability": 1.0}]
    row = {**ROW, "uri": "=a.png", "label": "@x", "top_k": top, "image_id": "0", "probability": 1.0}
    write_table(tmp_path / "out.csv", ".csv", [pa.Table.from_pylist([row, ROW], schema=PREDICTION_SCHEMA)], {})
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1].startswith('"\'=a.png","0","\'@x",1,"[{')
    first, second = read_prediction_rows(tmp_path / "out.csv")
    assert (first["uri"], first["label"], first["top_k"]) == ("=a.png", "@x", top)
    assert (second["uri"], second["label"]) == ("a.png", "")
