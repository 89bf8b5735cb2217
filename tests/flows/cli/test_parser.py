import logging

import pytest

from flows.cli.main import main
from flows.notifications import console
from imageset.distribution import get_version


def usage_error_of(arguments: list[str], capsys) -> str:
    """The one line that a wrong call prints."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error: no command given; see `convoy --help`\n"),
        (["statsu"], "error: unknown command 'statsu', did you mean 'status'?; see `convoy --help`\n"),
        (["fly"], "error: unknown command 'fly'; see `convoy --help`\n"),
        (["--verbos=x"], "error: argument -v/--verbose: ignored explicit argument 'x'; see `convoy --help`\n"),
        (
            ["sweep", "--trails", "3"],
            "error: unknown option --trails, did you mean '--trials'?; see `convoy sweep",
        ),
        (["status", "now"], "error: unknown argument 'now'; see `convoy status --help`\n"),
        (
            ["sweep", "--trials", "x"],
            "error: argument --trials: invalid int value: 'x'; see `convoy sweep --help`",
        ),
        (
            ["predict", "x", "--tag", "xpm"],
            "unknown value of --tag 'xpm', did you mean 'xmp'?; see `convoy predict",
        ),
        (
            ["predict", "x", "--tag", "9"],
            "unknown value of --tag '9'; give one of xmp, sidecar; see `convoy predict",
        ),
        (
            ["status", "-q", "-v"],
            "argument -v/--verbose: not allowed with argument -q/--quiet; see `convoy status",
        ),
        (["compare", "a"], "the following arguments are required: RUN; see `convoy compare --help`\n"),
    ],
)
def test_a_wrong_call_is_one_line_that_names_the_nearest_and_the_help(arguments, said, capsys):
    assert said in usage_error_of(arguments, capsys)


def test_the_version_is_that_of_the_distribution(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"convoy-vision {get_version()}\n"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["information", "warning"]),
        (["-q"], ["warning"]),
        (["--quiet"], ["warning"]),
        (["-v"], ["detail", "information", "warning"]),
        (["--verbose"], ["detail", "information", "warning"]),
    ],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_quiet_leaves_the_result_and_warnings_and_verbose_adds_the_details(
    options, is_before, shown, monkeypatch, capsys
):
    def run(arguments) -> None:
        console.attach_console(arguments.verbosity)
        logger = console.get_logger("flows.test")
        logger.info("detail", extra=console.LOG_ONLY)
        logger.info("information")
        logger.warning("warning")
        print("result")

    monkeypatch.setattr("flows.cli.commands.run_command", run)
    monkeypatch.setattr(logging.getLogger("flows"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("flows"), "propagate", True)
    main([*options, "status"] if is_before else ["status", *options])
    captured = capsys.readouterr()
    assert (captured.out, captured.err.split()) == ("result\n", shown)
