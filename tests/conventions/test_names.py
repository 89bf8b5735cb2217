"""Names: definitions, arguments and variables use the words of the field, one word for one thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

PACKAGES = ("convoy", "imageset", "lightning_modules", "flows")
# Words that once named things here, each with the standard term that replaced it.
REPLACED = {
    "newcomer": "candidate", "crew": "executor", "Crew": "BaseExecutor", "rest": "release_workers",
    "develop": "decode_batch", "develop_afar": "decode_batch_remote", "carried": "with_contents",
    "Facts": "DecodedFacts", "alone": "split_singles", "salvage": "decode_partial", "look": "measure_image",
    "Refusal": "Rejection", "refused": "rejected", "refusal": "rejection", "refusals": "rejections",
    "judge": "find_duplicates, evaluate_split or detect_drift", "Verdict": "EvaluationReport or GateResult",
    "verdict": "gate_result", "Seen": "ScoredSplit", "Settings": "EvaluationParams", "Judgement": "DriftResult",
    "tie": "build_groups", "Ties": "Groups", "Places": "GroupAssignment", "eldest": "anchor",
    "twins": "duplicates",
    "quarrels": "label conflicts", "settle": "replay_unfinished", "settle_leaks": "resolve_leaks",
    "settle_copies": "resolve_duplicates", "carry_out": "run_post_steps", "only_mover": "alias_lock",
    "only_one": "project_lock", "Mine": "ProcessHeartbeat", "Note": "ProcessRecord", "noted": "record_process",
    "MARK": "RUN_ID_VARIABLE", "troubles": "problems", "Trouble": "Problem", "mended": "resolve_problem",
    "until_it_goes_well": "track_problem", "Away": "TrackingServerUnavailable", "Gone": "RunDeleted",
    "PatientRun": "OfflineRun", "Outbox": "LogQueue", "outbox": "queue", "outboxes": "queues",
    "WATCHED": "FLOW_OPTIONS", "RETRIED": "TASK_RETRY_OPTIONS", "may_pass": "is_transient",
    "PASSING": "TRANSIENT_ERRNOS", "if_it_may_pass": "retry_if_transient", "at_most": "time_limit",
    "Answers": "Predictor", "answered": "predicted", "unanswered": "pending", "Parts": "PredictionCache",
    "Known": "CacheIndex", "Monitored": "MonitorResult", "Predicted": "PredictResult", "Ingested": "IngestResult",
    "Swept": "SweepResult", "Compared": "CompareResult", "Verified": "VerifyResult", "Checked": "CheckResult",
    "RolledBack": "RollbackResult", "said": "predicted or message", "said_of": "predict_labels",
    "said_of_dataset": "read_dataset_field", "echo": "describe_source", "borne": "label_pairs",
    "bears": "has label", "sureness": "confidence", "measures": "metrics", "suspects": "label_issues",
    "excite": "activation_maximization", "Eye": "InstrumentedModel", "Effort": "ComputeBudget",
    "Whole": "ModelWithPreprocessing", "Keep": "ResumableCheckpoint", "Curves": "MetricHistory",
    "Work": "RunState or DecodeContext", "SameEverywhere": "RankConsistencyCheck",
    "plain": "escape_control_characters", "on_disk": "write_arrow", "in_pieces": "iter_slices",
    "Earlier": "PreviousDataset", "Scratch": "ReclaimedTempDir", "taken_out": "extract_secrets",
    "put_back": "restore_secrets", "scrubbed": "redact", "one": "the thing that it is",
    "Overtaken": "ChampionChanged", "Busy": "ProjectBusy", "ServerAway": "ServerUnavailable",
}  # fmt: skip
# Fields that are written to files keep their names.
WRITTEN = {("imageset/check.py", "refused"), ("lightning_modules/drift/detector.py", "said")}
# English words: no function or class bears them, a variable may.
ALLOWED_AS_VARIABLES = {"alone", "look", "plain", "rest", "tie"}


def iter_defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of every function, class, argument and variable that code defines."""
    variables: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            variables.append((node.arg, node.lineno))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            variables.append((node.id, node.lineno))
        elif isinstance(node, ast.ExceptHandler) and node.name:
            variables.append((node.name, node.lineno))
    yield from ((name, line) for name, line in variables if name not in ALLOWED_AS_VARIABLES)


def list_source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_no_definition_bears_a_replaced_name():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name} -> {REPLACED[name]}"
        for path in list_source_files()
        for name, line in iter_defined(ast.parse(path.read_text(encoding="utf-8")))
        if name.lstrip("_") in REPLACED and (path.relative_to(ROOT).as_posix(), name) not in WRITTEN
    ]
    assert found == []


@pytest.mark.parametrize("start", ["What", "Who", "Whose", "Whoever", "Where", "Whether"])
def test_no_docstring_begins_with_a_question_word(start):
    found = []
    for path in list_source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                decorators = {getattr(decorator, "id", "") for decorator in getattr(node, "decorator_list", [])}
                is_property = bool(decorators & {"property", "cached_property"})
                if docstring.split(" ")[0] == start and not (is_property and start == "Whether"):
                    found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}")
    assert found == []


def test_a_result_class_says_so_in_its_name():
    """A frozen dataclass that a flow returns ends in Result."""
    returned = set()
    for path in (ROOT / "flows").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_flow = isinstance(node, ast.FunctionDef) and any(
                getattr(getattr(d, "func", d), "id", "") == "flow" for d in node.decorator_list
            )
            if is_flow and node.returns is not None:
                returned.add((path.stem, ast.unparse(node.returns)))
    assert returned
    wrong = [
        (flow, kind)
        for flow, kind in sorted(returned)
        if kind.split(" | ")[0] not in ("list[str]", "None", "str") and not kind.split(" | ")[0].endswith("Result")
    ]
    assert wrong == []
