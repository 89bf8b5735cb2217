from flows.promotion.gates.gate import Gate, GateResult

GATES = (
    Gate("better", True, "it is", {"gain": 0.1, "num_test": 9}),
    Gate("speed", False, "1 | 2 ms", {"ms": 2.0}),
)


def test_the_numbers_are_those_of_all_gates():
    assert GateResult(False, "too slow", GATES).numbers == {"gain": 0.1, "num_test": 9, "ms": 2.0}


def test_the_table_has_a_row_for_each_gate():
    assert GateResult(False, "too slow", GATES).to_markdown().splitlines() == [
        "| condition | | |",
        "| --- | --- | --- |",
        "| better | holds | it is |",
        "| speed | fails | 1 \\| 2 ms |",
    ]
    assert GateResult(True, "by hand").to_markdown() == ""
