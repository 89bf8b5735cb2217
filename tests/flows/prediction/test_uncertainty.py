from flows.prediction.uncertainty import compute_margin, find_least_confident


def test_the_least_sure_are_found_in_a_stream_and_the_same_bytes_once():
    rows = [{"image_id": f"{n % 900:064x}", "status": "ok",
             "top_k": [{"probability": 0.5 + (n * 7 % 900) / 2000}, {"probability": 0.5 - (n * 7 % 900) / 2000}]}
            for n in range(1800)]  # fmt: skip
    found = find_least_confident(iter(rows), 20)
    assert [round(compute_margin(row) * 1000) for row in found] == list(range(20))
