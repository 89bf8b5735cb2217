import os
import pty
import shutil
import subprocess
import termios
import time

import pytest

from flows.cli.main import main

BASH = """
source {script}
complete_words() {{
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    $(complete -p convoy | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    printf '%s\\n' "${{COMPREPLY[@]}}"
}}
complete_words {words}
"""


@pytest.fixture
def script(tmp_path, capsys):
    """Returns a function that writes the script of a shell to a file."""

    def write(shell: str):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_the_script_without_an_error(script, shell):
    done = subprocess.run([shell, "-n", str(script(shell))], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


COMPLETIONS = pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["st"], ["status"]),
        (["predict", "--prec"], ["--precision"]),
        (["predict", "--tag", ""], ["xmp", "sidecar"]),
        (["check", "pic"], ["pictures"]),
    ],
)


@COMPLETIONS
def test_bash_completes_commands_options_values_and_paths(script, tmp_path, words, completed):
    (tmp_path / "pictures").mkdir()
    quoted = " ".join(f'"{word}"' for word in ["convoy", *words])
    bash = BASH.format(script=script("bash"), words=quoted)
    done = subprocess.run(["bash", "-c", bash], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed


@COMPLETIONS
def test_fish_completes_commands_options_values_and_paths(script, tmp_path, words, completed):
    (tmp_path / "pictures").mkdir()
    typed = " ".join(["convoy", *words])
    fish = f"source {script('fish')}; complete -C '{typed}'"
    done = subprocess.run(["fish", "-c", fish], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()]
    assert [word for word in found if word] == completed


def test_zsh_completes_what_is_typed(script, tmp_path):
    path = script("zsh")
    assert type_in_zsh(tmp_path, path, "convoy statu\t").rstrip().endswith("convoy status")
    assert type_in_zsh(tmp_path, path, "convoy predict --prec\t").rstrip().endswith("convoy predict --precision")


def type_in_zsh(folder, script, typed: str) -> str:
    """The last line that zsh shows when a person types."""
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 100))
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "> "}
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=side, stdout=side, stderr=side, cwd=folder, env=env, start_new_session=True
    )
    os.close(side)
    try:
        load = f'autoload -U compinit; compinit -u; eval "$(cat {script})"; echo READ""Y'
        os.write(terminal, f"{load}\n".encode())
        read_until(terminal, "READY\r\n")
        os.write(terminal, typed.encode())
        return read_until(terminal, "\0", quiet_s=2.0).splitlines()[-1]
    finally:
        zsh.kill()
        zsh.wait()
        os.close(terminal)


def read_until(terminal: int, end: str, quiet_s: float = 30.0) -> str:
    """Return the text that a terminal shows until `end`, or until nothing more comes."""
    os.set_blocking(terminal, False)
    shown, changed_at = "", time.monotonic()
    while end not in shown and time.monotonic() - changed_at < quiet_s:
        try:
            shown, changed_at = shown + os.read(terminal, 4096).decode(), time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    return shown
