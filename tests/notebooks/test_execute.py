"""The notebook runner, on throw-away notebooks in a throw-away checkout."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lps.notebooks import execute as notebooks
from lps.notebooks.cells import words
from lps.notebooks.execute import Job, execute, plan

PARAMETERS = "size: int = 3  # how many\nname = 'a'  # what\nrate = 0.5\nflag = False\nrows = ['x']\nfree = None"


def write_notebook(root: Path, name: str, *sources: str, parameters: str = PARAMETERS, **metadata: Any) -> Path:
    def code(index: int, source: str, *tags: str) -> dict[str, Any]:
        cell = {"cell_type": "code", "id": f"c{index}", "metadata": {"tags": list(tags)}, "source": source}
        return {**cell, "execution_count": None, "outputs": []}

    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {name}"}
    cells = [
        title,
        code(0, parameters, "parameters"),
        *(code(i, source) for i, source in enumerate(sources, 1)),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    content = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, **metadata},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("notebooks", "lps/profiles", "results/paper", "results/shipped", "results/local"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lps" / "__init__.py").write_text("value = 1\n")
    return tmp_path


def request(
    root: Path, *only: str, overrides: tuple[str, ...] = (), variant: bool = False, **settings: Any
) -> list[Job]:
    return plan("smoke", settings, only, overrides, variant, root)


def outputs(job: Job) -> str:
    cells = json.loads(job.target.read_text())["cells"]
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


def test_executes_once_until_something_changes(root: Path) -> None:
    drawing = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    show = f"from IPython.display import SVG\nSVG({drawing!r})"
    write_notebook(root, "a", "exec(open('../lps/__init__.py').read())\nprint(value, size)", show)
    (job,) = request(root, a={"size": 4})
    other = job.target.with_name("a-tri-1.svg")  # of a variant whose name begins alike
    other.parent.mkdir(parents=True)
    other.write_text(drawing)
    assert execute([job]) == []
    assert outputs(job) == "1 4\n"
    assert other.exists() and "svg" in job.target.with_name("a-1.svg").read_text()
    sidecar = json.loads(job.sidecar.read_text())
    assert sidecar["parameters"] == {"size": 4}
    assert sidecar["seconds"] > 0 and sidecar["peak_memory_mb"] > 10
    assert not list(job.target.parent.glob("*.partial"))

    made = job.target.stat().st_mtime_ns
    os.utime(root / "notebooks" / "a.ipynb")
    (again,) = request(root, a={"size": 4})
    assert again.is_current() and execute([again]) == []
    assert job.target.stat().st_mtime_ns == made

    (root / "lps" / "__init__.py").write_text("value = 2\n")
    (changed,) = request(root, a={"size": 4})
    assert not changed.is_current()
    assert execute([changed]) == []
    assert outputs(changed) == "2 4\n"


@pytest.mark.parametrize("path", ["lps/deep/x.py", "lps/profiles/p.yml"])
def test_every_source_counts(root: Path, path: str) -> None:
    write_notebook(root, "a")
    (before,) = request(root)
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text("new")
    (after,) = request(root)
    assert before.hash != after.hash


@pytest.mark.parametrize("path", ["results/paper/t.csv", "results/shipped/r.json", "results/local/r.json"])
def test_results_count_where_they_are_read(root: Path, path: str) -> None:
    write_notebook(root, "reads", lps={"records": True})
    write_notebook(root, "theory")
    before = [job.records_hash() for job in request(root)]
    (root / path).write_text("new")
    after = [job.records_hash() for job in request(root)]
    assert before[0] != after[0] and before[1] is after[1] is None


def test_only_the_results_that_are_named_count(root: Path) -> None:
    write_notebook(root, "a", lps={"records": ["paper/*", "*/table1/**/*.json"]})
    before = request(root)[0].records_hash()
    (root / "results" / "local" / "other.json").write_text("new")
    assert request(root)[0].records_hash() == before
    for name in ("paper/t.csv", "shipped/table1/row/r.json"):
        path = root / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
        before, after = request(root)[0].records_hash(), before
        assert after != before


def test_outputs_and_time_stamps_do_not_count_but_tags_do(root: Path) -> None:
    path = write_notebook(root, "a", "print(1)")
    (before,) = request(root)
    notebook = json.loads(path.read_text())
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    notebook["cells"][2]["execution_count"] = 7
    path.write_text(json.dumps(notebook))
    assert request(root)[0].hash == before.hash
    notebook["cells"][2]["metadata"]["tags"] = ["hide-input"]
    path.write_text(json.dumps(notebook))
    assert request(root)[0].hash != before.hash


def test_records_written_while_executing_do_not_make_it_outstanding(root: Path) -> None:
    write = "from pathlib import Path\nPath('../results/local/r.json').write_text('{}')"
    write_notebook(root, "writes", write, lps={"records": True})
    (job,) = request(root)
    assert execute([job]) == []
    assert job.is_current()
    (root / "results" / "local" / "other.json").write_text("{}")
    assert not job.is_current()


def test_what_reads_all_records_waits_for_those_that_write_some(root: Path) -> None:
    count = "from pathlib import Path\nprint(len([*Path('../results/local').glob('*.json')]))"
    write = "import time\nfrom pathlib import Path\ntime.sleep(1)\nPath('../results/local/{0}.json').write_text('{0}')"
    write_notebook(root, "a", count, lps={"records": True})
    for name in "bc":
        write_notebook(root, name, write.format(ord(name)), lps={"records": ["paper/*"]})
    assert execute(request(root), jobs=2) == []
    assert outputs(request(root)[0]) == "2\n"
    assert all(job.is_current() for job in request(root))
    write_notebook(root, "c", write.format(4), lps={"records": ["paper/*"]})
    assert execute(request(root), jobs=2) == []
    assert outputs(request(root)[0]) == "3\n"


def test_what_takes_longest_starts_first(root: Path) -> None:
    write = "with open('order', 'a') as order:\n    order.write('{0}')"
    for name, about in (("a", {"records": True}), ("b", {}), ("c", {"first": True})):
        write_notebook(root, name, write.format(name), lps=about)
    assert execute(request(root)) == []
    assert (root / "notebooks" / "order").read_text() == "cba"


def test_one_failure_does_not_stop_the_others(root: Path) -> None:
    write_notebook(root, "a", "print('fine')")
    write_notebook(root, "b", "# first line", "raise RuntimeError('no\\nluck')")
    write_notebook(root, "c", "print('fine')")
    (failure,) = execute(request(root), jobs=2)
    assert (failure.name, failure.error, failure.log) == ("b", "RuntimeError: no", "build/logs/smoke/b.log")
    assert "cell 3" in failure.cell and "raise RuntimeError" in failure.cell
    assert "RuntimeError: no\nluck" in (root / failure.log).read_text()
    assert [job.is_current() for job in request(root)] == [True, False, True]
    assert not request(root)[1].target.exists()


def test_an_assertion_without_words_is_named_by_its_line(root: Path) -> None:
    loop = "def check(n):\n    assert n < 2  # Eq. (15)\n\n\nfor n in range(3):\n    check(n)"
    write_notebook(root, "a", loop)
    (failure,) = execute(request(root))
    assert failure.error == "AssertionError: assert n < 2  # Eq. (15)"


def test_a_kernel_or_a_client_that_dies_is_a_failure(root: Path) -> None:
    write_notebook(root, "a", "import os; os._exit(3)")
    write_notebook(root, "b", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    write_notebook(root, "c", "print('fine')")
    died, killed = execute(request(root))
    assert "DeadKernelError" in died.error
    assert "ended with code -9; out of memory" in killed.error
    assert request(root)[2].is_current()


def test_two_jobs_overlap(root: Path) -> None:
    meet = (
        "import time\nfrom pathlib import Path\nPath('{0}').touch()\nend = time.time() + 30\n"
        "while not Path('{1}').exists():\n    assert time.time() < end\n    time.sleep(0.05)"
    )
    write_notebook(root, "a", meet.format("a.here", "b.here"))
    write_notebook(root, "b", meet.format("b.here", "a.here"))
    assert execute(request(root), jobs=2) == []


def test_killed_midway_leaves_nothing_half_written_and_completes_later(root: Path) -> None:
    slow = "import os, time\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\n"
    path = write_notebook(root, "a", slow + "while not Path('go').exists():\n    time.sleep(0.05)")
    script = (
        "import sys\nfrom pathlib import Path\nfrom lps.notebooks.execute import execute, plan\n"
        "execute(plan('smoke', {}, root=Path(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(root)], cwd=notebooks.ROOT)
    pid = root / "notebooks" / "pid"
    wait_for(lambda: pid.exists() and bool(pid.read_text()))
    kernel = int(pid.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(kernel))
    assert not list((root / "build").rglob("*.ipynb")) and not list((root / "build").rglob("*.json"))
    path.with_name("go").touch()
    (job,) = request(root)
    assert execute([job]) == []
    assert job.is_current()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie whose adoptive parent never reaps it is dead all the same.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_variant_stays_apart_and_is_exported(root: Path) -> None:
    write_notebook(root, "a", "print(size, name)")
    (job,) = request(root, "a", overrides=("size=7", "name=b/c"), variant=True)
    assert execute([job]) == []
    assert job.target.relative_to(root).as_posix() == "build/variants/a/smoke_size=7_name=b_c.ipynb"
    assert outputs(job) == "7 b/c\n"
    assert "7 b/c" in job.target.with_suffix(".html").read_text()
    assert not (root / "build" / "notebooks").exists()


def test_nothing_of_the_machine_stays_in_the_copy(root: Path) -> None:
    write_notebook(root, "a", "from pathlib import Path\nprint(Path.cwd())\nprint(Path.home() / 'x')")
    (job,) = request(root)
    assert execute([job]) == []
    text = job.target.read_text() + job.sidecar.read_text()
    assert str(root) not in text and f"{Path.home()}/" not in text
    assert "start_time" not in text and "iopub" not in text
    assert outputs(job) == "notebooks\n~/x\n"


def test_overrides_take_the_type_of_the_default(root: Path) -> None:
    write_notebook(root, "a")
    given = ("size=5", "name=b", "rate=1e-3", "flag=true", "rows=x,y", "free=[1]")
    (job,) = request(root, "a", overrides=given)
    assert job.parameters == {
        "size": 5,
        "name": "b",
        "rate": 0.001,
        "flag": True,
        "rows": ["x", "y"],
        "free": [1],
    }
    assert job.command == f'make reproduce PROFILE=smoke NB=a P="{" ".join(given)}"'


@pytest.mark.parametrize("given", ["name=$(x)", "name=`x`", "name=a b", "name=it's", 'name="b"', "name=\\n"])
def test_the_command_gives_what_was_given(given: str, root: Path) -> None:
    write_notebook(root, "a")
    (job,) = request(root, "a", overrides=(given, "size=5"))
    *_, parameters = shlex.split(job.command)
    assert words(parameters.removeprefix("P=")) == [given, "size=5"]
    assert job.parameters["name"] == given.removeprefix("name=")


@pytest.mark.parametrize(
    ("only", "overrides", "settings", "message"),
    [
        (
            ["a"],
            ["sise=3"],
            {},
            "notebook a has no parameter 'sise'; known: size, name, rate, flag, rows, free",
        ),
        ([], [], {"a": {"sise": 3}}, "notebook a has no parameter 'sise'; known: size, name"),
        (["a"], ["size=many"], {}, r"'size' of notebook a is of type int \(default 3\); given: 'many'"),
        (["a"], ["flag=1"], {}, "'flag' of notebook a is of type bool"),
        (
            [],
            [],
            {"a": {"rate": "1e-3"}},
            r"'rate' of notebook a is of type float \(default 0.5\); given: '1e-3'",
        ),
        ([], [], {"a": {"size": True}}, "'size' of notebook a is of type int"),
        (["a"], ["size"], {}, "a parameter is given as name=value; given: 'size'"),
        (["z"], [], {}, "there is no notebook 'z'; known: a"),
        ([], [], {"z": {}}, "there is no notebook 'z', which profile smoke has settings for; known: a"),
        ([], ["size=3"], {}, "a parameter belongs to a notebook"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    root: Path, only: list[str], overrides: list[str], settings: dict[str, Any], message: str
) -> None:
    write_notebook(root, "a")
    with pytest.raises(ValueError, match=message):
        plan("smoke", settings, only, overrides, root=root)


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom lps.notebooks import execute\n"
        "print([m for m in ('papermill', 'nbformat', 'nbconvert', 'ipykernel') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=notebooks.ROOT
    )
    assert done.stdout == "[]\n"
