from lightning_modules.tracking.offline_queue import LogQueue


def test_a_line_that_a_kill_cut_short_is_cut_off(tmp_path):
    box = LogQueue(tmp_path / "box")
    box.append({"do": "params", "params": {"a": "1"}})
    with box.journal.open("ab") as file:
        file.write(b'{"do": "par')
    box.append({"do": "params", "params": {"b": "2"}})
    assert [line["params"] for line in box.read_entries()] == [{"a": "1"}, {"b": "2"}]
    assert box.num_waiting == 2
