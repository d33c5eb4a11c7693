"""The command: one plan, one sentence for each error, one document for --json, documented exit codes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from skeleton import cli
from skeleton.errors import GenerateError
from skeleton.generate import Plan, Progress
from tests.unit.skeleton.bad_names import BAD_NAMES


def test_at_least_forty_bad_names_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends with 2, one line with a suggestion, and an empty folder."""
    assert len(BAD_NAMES) >= 40
    for name in BAD_NAMES:
        assert cli.run(["--into", str(tmp_path), "--", name]) == 2, name
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "; try '" in said.err
        assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, target, owner, port and components are seen before anything happens."""
    words = [
        "hello",
        "--with",
        "redis,db",
        "--owner",
        "accounts",
        "--port",
        "8010",
        "--into",
        str(tmp_path),
        "--dry-run",
    ]
    assert cli.run(words) == 0
    said = capsys.readouterr()
    for part in (str(tmp_path / "hello"), "accounts", "8010", "db, redis", "Nothing was written"):
        assert part in said.out
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a script reads is alone on stdout; what people read goes to stderr."""
    assert cli.run(["hello", "--into", str(tmp_path), "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["plan"]["target"] == str(tmp_path / "hello")
    assert "hello/app.py" in document["plan"]["files"]
    assert document["result"] == {"dry_run": True}
    assert "generate-service hello" in said.err


def test_the_next_command_can_be_given_to_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is quoted where the way to the service has spaces, quotes or a leading hyphen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("skeleton.generate.generate", lambda wanted, progress: wanted.target.mkdir() or wanted)
    for folder in ("plain", "with space", "it's $HOME; x", "-dash"):
        Path(folder).mkdir()
        assert cli.run(["hello", f"--into={folder}", "--json"]) == 0
        following = json.loads(capsys.readouterr().out)["result"]["next"]
        entered = subprocess.run(
            ["sh", "-c", following.replace("make run", "pwd")], capture_output=True, text=True, check=True
        )
        assert entered.stdout.strip() == str(tmp_path / folder / "hello")


def test_an_error_in_a_step_has_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of the step ends before the sentence begins; a step that has ended gets no second end."""

    def fail(wanted: Plan, progress: Progress) -> None:
        progress.begin(1, 2, "Environment")
        progress.end("Environment", 0.1, "")
        progress.begin(2, 2, "First commit")
        raise GenerateError("It rains.")

    monkeypatch.setattr("skeleton.generate.generate", fail)
    assert cli.run(["hello", "--into", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert [line.rstrip() for line in said.err.splitlines()[-2:]] == ["2/2 First commit", "generate-service: It rains."]
    assert json.loads(said.out) == {"error": {"code": 1, "message": "It rains."}}


def test_a_full_disk_is_told_in_one_sentence_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json it is one document too."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "file"))

    monkeypatch.setattr("skeleton.generate._build", full)
    assert cli.run(["hello", "--into", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["error"]
    assert str(tmp_path / "file") in told["message"]
    assert "No space left" in told["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["class"], 2, "keyword"),
        (["hello", "--with", "postgress"], 2, "did you mean 'db'"),
        (["hello", "--owner", "two words"], 2, "try 'two-words'"),
        (["hello", "--port", "80"], 2, "try 8000"),
        (["hello", "--port", "many"], 2, "not a valid integer"),
        (["hello", "--into", "/nowhere/at/all"], 2, "is no directory"),
        (["hello", "--wiht", "db"], 2, "--with"),
        ([], 2, "NAME"),
        (["taken"], 3, "never touched"),
    ],
)
def test_an_error_is_one_sentence_with_a_documented_code(
    words: list[str], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong, why, what to do; and the same as one JSON document."""
    (tmp_path / "taken").mkdir()
    into = [] if "--into" in words else ["--into", str(tmp_path)]
    assert cli.run([*words, *into]) == code
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.startswith("generate-service: ")
    assert said.err.count("\n") == 1
    assert cli.run([*words, *into, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_missing_git_ends_with_4(tmp_path: Path) -> None:
    """The tool that is missing is named before anything is written."""
    ended = subprocess.run(
        [sys.executable, "-m", "skeleton.cli", "hello", "--into", str(tmp_path)],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 4
    assert "install git" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_cookiecutter_ends_with_4(tmp_path: Path) -> None:
    """Installed without the extra that generates, the command says which one to install."""
    program = (
        "import sys; sys.modules['cookiecutter'] = None; from skeleton import cli; sys.exit(cli.run(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "hello", "--into", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 4
    assert "smartservice[generate]" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_a_warning_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The service may run on another machine, so the plan goes on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = str(listening.getsockname()[1])
        assert cli.run(["hello", "--port", port, "--into", str(tmp_path), "--dry-run"]) == 0
    assert "Warning" in capsys.readouterr().out


def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that the reference says is found at the terminal too."""
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert "generate-service team-identity --with db,redis" in said
    for code in ("0  done", "2  wrong use", "3  the target", "4  a tool", "5  the requirements", "6  the new service"):
        assert code in said


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names the program and its version."""
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("generate-service ")


def test_looking_at_the_help_imports_nothing_heavy() -> None:
    """The command answers at once: neither cookiecutter nor any package of ours is imported for its help."""
    program = (
        "import sys; from skeleton import cli; cli.run(['--help']); "
        "print(sorted(set(sys.modules) & {'cookiecutter', 'jinja2', 'flask', 'smartservice', 'requests', 'ctypes'}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
