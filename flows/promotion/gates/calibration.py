"""The gate `calibration`: probabilities stay as trustworthy as the champion's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate

if TYPE_CHECKING:
    from lightning_modules.comparison.paired import PairedPredictions


def evaluate_calibration(predictions: PairedPredictions, params: dict[str, Any]) -> Gate:
    """Check that the expected calibration error does not rise by more than `max_ece_rise`, beyond chance.

    Only images that both models could read count: for others there are no probabilities, so no error of them.
    """
    from lightning_modules.comparison import paired
    from lightning_modules.comparison.subsets import select_read_images

    max_rise = params["max_ece_rise"]
    read = select_read_images(predictions)
    if read is None:
        return Gate("calibration", True, "not compared: no test picture could be read by both models")
    estimate = paired.compare_paired(read, "calibration_error", params["confidence"], params["resamples"])
    message = f"calibration error {estimate.candidate:.4f} against {estimate.champion:.4f}"
    numbers = {"calibration_error": estimate.candidate, "compared_calibration_error": estimate.champion}
    if max_rise is None or -estimate.gain <= max_rise:
        return Gate("calibration", True, message, numbers)
    if estimate.high >= 0:
        return Gate("calibration", True, f"{message}, which may be chance", numbers)
    return Gate("calibration", False, f"{message}: more than {max_rise:g} worse", numbers)
