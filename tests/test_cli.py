"""splatseg.cli: every ending of a command line has its exit code and at most one line on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from script_runner import run_script

import splatseg
from splatseg.cli.command import COMMANDS
from splatseg.cli.command import main as command_main

ROOT = Path(__file__).parent.parent


SNIPPETS = """
import errno, json, os, sys, tempfile
from splatseg.cli.endings import run
from splatseg.core.errors import SplatsegError
for line in sys.stdin:
    told = tempfile.TemporaryFile("w+")
    if not (child := os.fork()):
        os.dup2(told.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told.seek(0)
    print(json.dumps([code, told.read()]), flush=True)
else:
    sys.exit()
exec(json.loads(line))
"""
"""Each line of stdin is a program whose imports are done: it ends as a process of its own."""


@dataclass(frozen=True)
class Ending:
    """Exit code and what was said on stderr."""

    returncode: int
    told: str


Snippets = Callable[[str], Ending]


@pytest.fixture(scope="module")
def run_snippet() -> Iterator[Snippets]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", SNIPPETS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as server:

        def run(body: str) -> Ending:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(json.dumps(body) + "\n")
            server.stdin.flush()
            return Ending(*json.loads(server.stdout.readline()))

        yield run


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("run(lambda: print('done'))", 0, ""),
        ("run(lambda: True)", 0, ""),  # a bool is an int in Python and must not become exit code 1
        ("run(lambda: 3)", 3, ""),
        (
            "def f(): raise SplatsegError('scene: expected one,\\n found none')\nrun(f)",
            2,
            "error: scene: expected one, found none\n",
        ),
        ("def f(): raise KeyboardInterrupt\nrun(f)", 130, "error: interrupted\n"),
        (
            "def f(): raise OSError(errno.ENOSPC, 'No space left on device', 'a.npz')\nrun(f)",
            2,
            "error: a.npz: No space left on device\n",
        ),
        ("def f(): raise MemoryError\nrun(f)", 2, "error: out of memory\n"),
        ("def f(): raise SystemExit(2)\nrun(f)", 2, ""),  # tyro leaves like this on bad arguments
    ],
)
def test_endings(run_snippet: Snippets, body: str, code: int, stderr: str) -> None:
    result = run_snippet(body)
    assert result == Ending(code, stderr)


def test_bugs_keep_their_traceback(run_snippet: Snippets) -> None:
    for body in ("def f(): raise FileNotFoundError(errno.ENOENT, 'gone', 'x')", "def f(): return 1 / 0"):
        result = run_snippet(f"{body}\nrun(f)")
        assert result.returncode == 1
        assert "Traceback" in result.told


@pytest.mark.parametrize(
    ("command", "option", "found"),
    [
        # a config of ours refuses
        ("masks.py s --out o --sam.points-per-side 0", "sam.points_per_side: expected at least 1", "found 0"),
        ("masks.py s --out o --watershed.spacing 0", "spacing: expected at least 1 pixel", "found 0"),
        ("fit.py s --config.features.dim 0", "features.dim: expected at least 1", "found 0"),
        ("fit.py s --config.features.loss.phi-min 4", "phi_min, phi_max: expected 0 < min <= max", "found 4.0 and 1.0"),
        ("synthesize.py o --views 1", "views: expected at least 3", "found 1"),
        # tyro refuses
        ("masks.py s --out o --sam.points-per-side z", "--sam.points-per-side", "'z'"),
        ("fit.py s --config.features.loss.weight a", "--config.features.loss.weight", "'a'"),
        ("fit.py s --downscale q", "--downscale: expected a whole number, found 'q'.", "fit.py --help"),
        ("fit.py s --downscale 1.5", "--downscale: expected a whole number, found '1.5'.", "fit.py --help"),
        ("view.py r --port 80a", "--port: expected a whole number, found '80a'.", "view.py --help"),
        ("segment.py r --view a --pixel 1 2 --threshold q", "--threshold: expected a number, found 'q'.", "--help"),
        ("masks.py s --out o --pixel a b", "--pixel: expected 2 whole numbers, found 'a b'.", "masks.py --help"),
        ("masks.py s --out o --pixel 3", "--pixel: expected 2 whole numbers, found '3'.", "masks.py --help"),
        ("segment.py r --view a --pixel 3 y", "--pixel: expected 2 numbers, found '3 y'.", "segment.py --help"),
        ("segment.py r --view a --pixel 3 4 --add x y", "--add: expected 2 numbers, found 'x y'.", "segment.py --help"),
        ("masks.py s --out o --watershed.cuts 8 z", "--watershed.cuts: expected whole numbers, found '8 z'.", "--help"),
        ("fit.py", "SCENE: expected a capture, or --splat FILE alone", "found neither"),
        ("fit.py --preset", "Missing value for argument '--preset'", "fit.py --help"),
        ("segment.py r --view a --pixel 3", "'--pixel'. Expected 2 values", "segment.py --help"),
        ("masks.py s --out o --preset slow", "'--preset'. Expected one of ('fast', 'default', 'fine')", "'slow'"),
        ("evaluate.py", "Missing from", "--gt PATH"),
        ("fit.py s --nope 3 --config.what", "Unrecognized options: --nope, 3, --config.what", "fit.py --help"),
        (
            "masks.py s --out o --sam.points-per-sid 3",
            "--sam.points-per-sid, 3",
            "Perhaps you meant: --sam.points-per-side",
        ),
        ("masks.py s --bogus", "--out PATH", "Unrecognized options: --bogus"),
    ],
)
@pytest.mark.parametrize(("columns", "framed"), [("40", True), ("90", False)])
def test_bad_arguments_are_one_line(
    command: str,
    option: str,
    found: str,
    columns: str,
    framed: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In tyro's words, of its frame and, on terminals without UTF-8, of none, however narrow they are."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", framed)
    assert run_script(*command.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert option in err and found in err and not set("╭│╰─") & set(err)
    assert os.environ["COLUMNS"] == columns


def test_help_is_left_to_tyro(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout, exit code 0, and for the terminal that there is, not the wide one of the complaints."""
    monkeypatch.setenv("COLUMNS", "70")
    assert run_script("fit.py", "--help") == 0
    captured = capsys.readouterr()
    assert "--preset" in captured.out and captured.err == ""
    assert max(map(len, captured.out.splitlines())) < 1000


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("fit.py", "--config.geometry.sh-degree"),
        ("masks.py", "--sam.points-per-side"),
        ("export.py", "--clusters.min-cluster"),
    ],
)
def test_settings_are_told_where_they_are_asked_for(
    command: str, setting: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--help`` fits two screens and says how to see the rest."""
    monkeypatch.setenv("COLUMNS", "100")
    for _ in range(2):
        assert run_script(command, "--help") == 0
        brief = capsys.readouterr().out
        assert f"{setting} " not in brief and "--help-all lists them" in brief and len(brief.splitlines()) < 60
        assert run_script(command, "--help-all") == 0
        assert f"{setting} " in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_plain_text(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command says of itself and its own options has no markup, and names commands as a person types them."""
    monkeypatch.setattr("sys.argv", ["splatseg", name, "--help"])
    with pytest.raises(SystemExit):
        command_main()
    told = capsys.readouterr().out
    about = told.partition("usage:")[2].partition("settings --")[0].partition("masks options")[0]
    assert "``" not in about and ":meth:" not in about and "shared/" not in about and f"splatseg {name}" in about
    assert "scripts/" not in about.replace("torchrun --nproc-per-node 4 scripts/masks.py", "")


ASKED = """
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
registered=$(complete -p splatseg); registered=${registered#*-F }
${registered%% *}
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(script: str, *words: str) -> list[str]:
    """What bash offers after ``words``, the last of which is being typed."""
    command = ["bash", "-c", f"{script}\n{ASKED}", "bash", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """The first in a process of its own: that it ends so, and says nothing else."""

    def told(*words: str) -> Ending:
        """With what was said on stdout where all went well."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["splatseg", *words])
            with pytest.raises(SystemExit) as ending:
                command_main()
        captured = capsys.readouterr()
        return Ending(int(ending.value.code or 0), captured.out if not ending.value.code else captured.err)

    script = splatseg_command("completion", "bash")
    assert script.returncode == 0 and script.stderr == ""
    assert told("--tyro-print-completion", "bash") == Ending(0, script.stdout)
    assert completed(script.stdout, "splatseg", "ma") == ["masks"]
    for _ in range(2):
        assert completed(script.stdout, "splatseg", "fit", "--pre") == ["--preset"]
    assert completed(script.stdout, "splatseg", "fit", "--preset", "f") == ["fast"]
    for shell, word in (("zsh", "#compdef splatseg"), ("fish", "complete")):
        assert word in told("completion", shell).told
    wrong = told("completion", "cmd")
    assert wrong.returncode == 2 and wrong.told.count("\n") == 1 and "'cmd'" in wrong.told


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("[a-z]*.py")))
def test_a_python_without_splatseg_is_told_so(script: str) -> None:
    """The wrong Python is the likeliest first mistake: one line, no traceback. -S hides installed packages."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", str(ROOT / "scripts" / script)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "found no splatseg, " in done.stderr


def splatseg_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "splatseg.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_lists_its_commands_and_refuses_others() -> None:
    shown = splatseg_command("--help")
    assert shown.returncode == 0 and shown.stderr == ""
    for name in COMMANDS:
        assert f"\n  {name} " in shown.stdout and (ROOT / "splatseg" / "cli" / f"{name}.py").is_file()
    wrong = splatseg_command("fitt")
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.count("\n") == 1
    assert "expected one of fit, masks," in wrong.stderr and "found 'fitt'" in wrong.stderr
    assert splatseg_command("--version").stdout == f"splatseg {splatseg.__version__}\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_a_command_and_its_script_are_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(f"{name}.py", "--help") == 0
    by_script = capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["splatseg", name, "--help"])
        with pytest.raises(SystemExit) as ending:
            command_main()
    assert ending.value.code in (0, None)
    by_command = capsys.readouterr().out
    usage = f"usage: splatseg {name} "
    assert by_command.startswith(usage)
    assert by_command.split()[3:] == by_script.split()[2:]
