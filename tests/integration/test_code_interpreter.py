"""The server of the template `code-interpreter-v1` with real kernels, as a program of this machine, driven by e2b's client over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from e2b_code_interpreter.models import Execution, parse_output

from tests.interpreter_server import InterpreterServer, running_interpreter, wait_until
from wrenn.testing.server import free_port

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is missing")


@dataclass(frozen=True)
class Interpreter(InterpreterServer):
    """A running server, used as e2b's client does."""

    def execute(self, code: str, **options: Any) -> Execution:
        """Run code and read the answer as e2b's client does."""
        execution = Execution()
        for line in self.lines(code, **options):
            parse_output(execution, json.dumps(line))
        return execution

    def lines(self, code: str, **options: Any) -> list[dict[str, Any]]:
        with self.http.stream("POST", "/execute", json={"code": code, **options}) as response:
            response.read()
            assert response.status_code == 200, response.text
            lines = [json.loads(line) for line in response.text.splitlines()]
        assert lines[-1] == {"type": "end_of_execution"}
        return lines

    def abandon(self, code: str, *, begun: Callable[[], bool], **options: Any) -> None:
        """Run code and go away once it has begun."""
        with self.http.stream("POST", "/execute", json={"code": code, **options}):
            wait_until(begun)


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with running_interpreter(tmp_path_factory.mktemp("interpreter"), free_port()) as server:
        yield Interpreter(server.http, server.cwd, server.variables)


def test_state_stays_from_run_to_run_and_runs_are_counted(interpreter: Interpreter):
    context = interpreter.http.post("/contexts", json={}).json()["id"]
    first = interpreter.execute("x = 20\nprint('hello')\nx + 1", context_id=context)
    assert (first.text, first.logs.stdout, first.execution_count) == ("21", ["hello\n"], 1)
    second = interpreter.execute("!pwd\nx", context_id=context)
    assert (second.text, second.execution_count) == ("20", 2)
    assert "".join(second.logs.stdout).strip() == str(interpreter.cwd)


def test_an_error_has_name_value_and_traceback(interpreter: Interpreter):
    error = interpreter.execute("1 / 0").error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert (
        "1 / 0" in error.traceback.replace("\x1b[39m", "").replace("\x1b[32m", "")
        or "ZeroDivisionError" in error.traceback
    )


def test_standard_error_and_displayed_objects_come_in_their_order(interpreter: Interpreter):
    lines = interpreter.lines(
        "import sys\nfrom IPython.display import HTML, JSON, Latex, Markdown, SVG, display\n"
        "print('oops', file=sys.stderr, flush=True)\n"
        "display(HTML('<b>1</b>'))\ndisplay(Markdown('*2*'))\ndisplay(Latex('$3$'))\ndisplay(JSON({'four': 4}))\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\ndisplay({'x/y': 'own'}, raw=True)\n'seven'"
    )
    results = [line for line in lines if line["type"] == "result"]
    assert [line["text"] for line in lines if line["type"] == "stderr"] == ["oops\n"]
    assert results[0]["html"] == "<b>1</b>"
    assert results[1]["markdown"] == "*2*"
    assert results[2]["latex"] == "$3$"
    assert results[3]["json"] == {"four": 4}
    assert results[4]["svg"].startswith("<svg")
    assert results[5]["extra"] == {"x/y": "own"}
    # A string is shown without its quotes.
    assert (results[6]["text"], results[6]["is_main_result"]) == ("seven", True)
    assert not any(result["is_main_result"] for result in results[:6])


def test_a_data_frame_has_its_columns_as_data(interpreter: Interpreter):
    code = "import pandas as pd\npd.DataFrame({'n': [1, 2], 'f': [0.5, float('nan')], 's': ['a', None]})"
    result = interpreter.execute(code).results[0]
    data: Any = vars(result)["data"]
    assert data is not None
    assert data["n"] == [1, 2]
    assert data["f"] == [0.5, None]
    assert result.html is not None
    assert "<table" in result.html


_CHARTS = {
    "line": "plt.plot([1, 2, 3], [4, 5, 6], label='up'); plt.plot([1, 2], [3, 3]); plt.xlabel('Time (s)')",
    "scatter": "plt.scatter([1, 2], [3, 4], label='dots'); plt.yscale('log'); plt.ylabel('Size [m]')",
    "bar": "plt.bar(['a', 'b'], [1, 2], label='things')",
    "pie": "plt.pie([1, 3], labels=['x', 'y'], autopct='%1.1f%%')",
    "box_and_whisker": "plt.boxplot([[1, 2, 3, 4, 5, 30], [2, 3, 4], [1, 2, 3, 9]])",
    "unknown": "plt.imshow([[1, 2], [3, 4]])",
    "superchart": "_, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.bar(['q'], [1])",
}


def _chart(interpreter: Interpreter, kind: str) -> Any:
    execution = interpreter.execute(
        f"import matplotlib.pyplot as plt\n{_CHARTS[kind]}\nplt.title('A')\nplt.show()"
    )
    assert execution.error is None, execution.error
    (result,) = execution.results
    assert result.png
    assert result.chart is not None
    assert result.chart.type.value == kind
    return result.chart


def test_a_line_chart_has_its_points_labels_and_units(interpreter: Interpreter):
    chart = _chart(interpreter, "line")
    assert (chart.title, chart.x_label, chart.x_unit, chart.y_label) == ("A", "Time (s)", "s", None)
    assert chart.elements[0].label == "up"
    assert chart.elements[0].points == [(1, 4), (2, 5), (3, 6)]
    assert chart.elements[1].points == [(1, 3), (2, 3)]
    assert (chart.x_scale.value, len(chart.x_ticks)) == ("linear", len(chart.x_tick_labels))


def test_a_scatter_chart_has_scales(interpreter: Interpreter):
    chart = _chart(interpreter, "scatter")
    assert chart.elements[0].points == [(1.0, 3.0), (2.0, 4.0)]
    assert (chart.y_scale.value, chart.y_unit) == ("log", "m")


def test_bars_have_names_groups_and_values(interpreter: Interpreter):
    chart = _chart(interpreter, "bar")
    assert [(bar.label, bar.value, bar.group) for bar in chart.elements] == [
        ("a", 1, "things"),
        ("b", 2, "things"),
    ]


def test_slices_have_labels_and_angles(interpreter: Interpreter):
    chart = _chart(interpreter, "pie")
    assert [(each.label, round(each.angle), each.radius) for each in chart.elements] == [
        ("x", 90, 1),
        ("y", 270, 1),
    ]


def test_boxes_have_quartiles_and_outliers(interpreter: Interpreter):
    first, second, third = _chart(interpreter, "box_and_whisker").elements
    assert (first.min, first.first_quartile, first.median, first.third_quartile, first.max) == (
        1,
        2.25,
        3.5,
        4.75,
        5,
    )
    assert first.outliers == [30]
    assert (second.min, second.median, second.max, second.outliers) == (2, 3, 4, [])
    assert third.median == 2.5


def test_several_axes_make_a_superchart_and_an_image_is_unknown(interpreter: Interpreter):
    assert [each.type.value for each in _chart(interpreter, "superchart").elements] == ["line", "bar"]
    assert _chart(interpreter, "unknown").elements == []


def test_a_figure_with_too_many_points_is_a_picture_only(interpreter: Interpreter):
    execution = interpreter.execute("import matplotlib.pyplot as plt\nplt.plot(range(30_000))\nplt.show()")
    assert execution.results[0].png
    assert execution.results[0].chart is None


@needs_node
def test_javascript_keeps_names_awaits_and_imports(interpreter: Interpreter):
    first = interpreter.execute("const y = await Promise.resolve(2); console.log('hi'); y", language="js")
    assert (first.text, first.logs.stdout) == ("2", ["hi\n"])
    code = "import fs, { existsSync as exists } from 'fs'\n[y, exists('/'), typeof fs.readFileSync].join()"
    assert interpreter.execute(code, language="javascript").text == "2,true,function"
    error = interpreter.execute("throw new TypeError('bad')", language="javascript").error
    assert error is not None
    assert (error.name, error.value) == ("TypeError", "bad")
    assert interpreter.execute("process.cwd()", language="js").text == str(interpreter.cwd)


def test_bash_keeps_directory_and_names_and_is_started_again_after_exit(interpreter: Interpreter):
    first = interpreter.execute("q=1; cd /; echo out; echo err >&2; false", language="bash")
    assert (first.logs.stdout, first.logs.stderr, first.error) == (["out\n"], ["err\n"], None)
    assert interpreter.execute("echo $q $PWD", language="bash").logs.stdout == ["1 /\n"]
    ended = interpreter.execute("echo last; exit 3", language="bash")
    assert ended.logs.stdout == ["last\n"]
    assert ended.error is not None
    assert "exit code 3" in ended.error.value
    assert interpreter.execute("echo ${q:-gone}", language="bash").logs.stdout == ["gone\n"]


def test_a_program_in_the_background_does_not_hold_up_the_run(interpreter: Interpreter):
    begun = time.monotonic()
    interpreter.execute("sleep 60 &\necho $! > sleeper", language="bash")
    assert time.monotonic() - begun < 30
    interpreter.execute("kill $(cat ~-/sleeper 2>/dev/null || cat sleeper)", language="bash")


def test_a_program_in_the_background_that_writes_for_ever_does_not_hold_up_the_run(interpreter: Interpreter):
    run = interpreter.execute("yes & echo $! > writer; sleep 0.2", language="bash")
    assert run.error is None
    interpreter.execute("kill $(cat writer)", language="bash")


@pytest.mark.parametrize(
    ("language", "show"),
    [
        ("python", "import os; print(os.environ.get('{0}', 'none'))"),
        pytest.param("js", "console.log(process.env.{0} ?? 'none')", marks=needs_node),
        ("bash", "echo ${{{0}:-none}}"),
    ],
)
def test_variables_of_the_sandbox_stay_and_those_of_a_run_do_not(
    interpreter: Interpreter, language: str, show: str
):
    def value(name: str, **options: Any) -> str:
        execution = interpreter.execute(show.format(name), language=language, **options)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout).strip()

    interpreter.variables.write_text(json.dumps({"OF_SANDBOX": "one two", "BOTH": "sandbox"}))
    assert value("OF_SANDBOX") == "one two"
    assert value("BOTH", env_vars={"BOTH": "run", "A=B": "no name", "NUL": "\0"}) == "run"
    assert value("BOTH") == "sandbox"
    assert value("OF_RUN", env_vars={"OF_RUN": "1"}) == "1"
    assert value("OF_RUN") == "none"
    # As after a fork, whose sandbox has other variables.
    interpreter.variables.write_text(json.dumps({"BOTH": "changed"}))
    assert value("BOTH") == "changed"
    assert value("OF_SANDBOX") == "none"
    interpreter.variables.write_text("damaged")
    assert value("BOTH") == "none"


@pytest.mark.parametrize(
    ("language", "busy", "after", "expected"),
    [
        (
            "python",
            "import time, pathlib\nk = 1\npathlib.Path('begun').touch()\ntime.sleep(60)",
            "print(k)",
            "1",
        ),
        ("bash", "k=1; touch {cwd}/begun; sleep 60; k=2", "echo $k", "1"),
        ("bash", "k=1; touch {cwd}/begun; while :; do :; done", "echo $k", "1"),
        pytest.param(
            "js",
            "var k = 1; fs.writeFileSync('begun', ''); while (true) {{}}",
            "console.log(k)",
            "1",
            marks=needs_node,
        ),
        pytest.param(
            "js",
            # Written once Node.js waits: a signal in the instant before ends it, with its state.
            "var k = 1; setTimeout(() => fs.writeFileSync('begun', '')); await new Promise(() => {{}})",
            "console.log(k)",
            "1",
            marks=needs_node,
        ),
    ],
    ids=["python", "bash command", "bash loop", "js loop", "js await"],
)
def test_a_disconnected_client_interrupts_its_run_and_the_state_stays(
    interpreter: Interpreter, language: str, busy: str, after: str, expected: str
):
    begun = interpreter.cwd / "begun"
    begun.unlink(missing_ok=True)
    code = busy.format(cwd=interpreter.cwd)
    interpreter.abandon(code, begun=begun.exists, language=language)
    assert "".join(interpreter.execute(after, language=language).logs.stdout).strip() == expected


def test_a_waiting_run_is_dropped_when_its_client_disconnects(interpreter: Interpreter):
    begun, release = interpreter.cwd / "first", interpreter.cwd / "release"
    code = "import pathlib, time\npathlib.Path('first').touch()\nwhile not pathlib.Path('release').exists(): time.sleep(0.02)"
    with interpreter.http.stream("POST", "/execute", json={"code": code}) as first:
        wait_until(begun.exists)
        with pytest.raises(httpx2.ReadTimeout):
            interpreter.http.post("/execute", json={"code": "pathlib.Path('second').touch()"}, timeout=0.3)
        release.touch()
        first.read()
    assert interpreter.execute("1 + 1").text == "2"
    assert not (interpreter.cwd / "second").exists()


def test_a_killed_kernel_is_reported_and_replaced(interpreter: Interpreter):
    context = interpreter.http.post("/contexts", json={}).json()["id"]
    error = interpreter.execute(
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", context_id=context
    ).error
    assert error is not None
    assert error.name == "ContextRestarting"
    assert interpreter.execute("1 + 1", context_id=context).text == "2"
    # Killed while nothing runs.
    pid = int(interpreter.execute("import os; os.getpid()", context_id=context).text or "")
    os.kill(pid, signal.SIGKILL)
    assert interpreter.execute("2 + 2", context_id=context).text == "4"


def test_copies_of_a_kernel_do_not_draw_the_same_numbers(interpreter: Interpreter):
    context = interpreter.http.post("/contexts", json={}).json()["id"]
    interpreter.variables.write_text("{}")
    draw = "import random; random.random()"
    interpreter.execute("import random; state = random.getstate()", context_id=context)
    expected = interpreter.execute(f"random.setstate(state); {draw}", context_id=context).text
    interpreter.variables.write_text(json.dumps({"WRENN_SANDBOX_ID": "cl-1"}))
    interpreter.execute("pass", context_id=context)
    assert interpreter.execute(draw, context_id=context).text != expected
    # Once: whoever has set a seed keeps it, also in a fork.
    interpreter.execute("random.seed(1)", context_id=context)
    interpreter.variables.write_text(json.dumps({"WRENN_SANDBOX_ID": "cl-2"}))
    interpreter.execute("pass", context_id=context)
    assert interpreter.execute(draw, context_id=context).text == "0.13436424411240122"
    interpreter.variables.write_text("{}")


def test_contexts_are_made_listed_restarted_and_removed(interpreter: Interpreter, tmp_path: Path):
    made = interpreter.http.post("/contexts", json={"language": "python", "cwd": str(tmp_path)})
    context = made.json()
    assert (made.status_code, context["language"], context["cwd"]) == (200, "python", str(tmp_path))
    listed = interpreter.http.get("/contexts").json()
    assert context in listed
    assert {"python", "javascript"} <= {each["language"] for each in listed} or shutil.which("node") is None
    assert interpreter.execute("import os; kept = 1; os.getcwd()", context_id=context["id"]).text == str(
        tmp_path
    )
    assert interpreter.http.post(f"/contexts/{context['id']}/restart").status_code == 204
    error = interpreter.execute("kept", context_id=context["id"]).error
    assert error is not None
    assert error.name == "NameError"
    assert interpreter.http.delete(f"/contexts/{context['id']}").status_code == 204
    for method, path in (("DELETE", ""), ("POST", "/restart")):
        assert interpreter.http.request(method, f"/contexts/{context['id']}{path}").status_code == 404
    assert (
        interpreter.http.post("/execute", json={"code": "1", "context_id": context["id"]}).status_code == 404
    )


def test_a_restart_ends_what_runs_with_an_error(interpreter: Interpreter):
    context = interpreter.http.post("/contexts", json={}).json()["id"]
    begun = interpreter.cwd / "restarting"
    code = "import pathlib, time\npathlib.Path('restarting').touch()\ntime.sleep(60)"
    with interpreter.http.stream("POST", "/execute", json={"code": code, "context_id": context}) as response:
        wait_until(begun.exists)
        interpreter.http.post(f"/contexts/{context}/restart")
        lines = [json.loads(line) for line in response.read().splitlines()]
    assert [line["type"] for line in lines[-2:]] == ["error", "end_of_execution"]
    assert lines[-2]["name"] == "ContextRestarting"
    assert interpreter.execute("1", context_id=context).text == "1"


def test_a_silent_run_sends_keepalives(interpreter: Interpreter):
    types = [line["type"] for line in interpreter.lines("import time; time.sleep(5.5)")]
    assert types == ["number_of_executions", "keepalive", "end_of_execution"]


def test_output_beyond_the_limit_is_left_out_with_a_note(interpreter: Interpreter):
    code = "for _ in range(80): print('x' * (1 << 20))"
    lines = interpreter.lines(code)
    size = sum(len(line.get("text", "")) for line in lines)
    assert 4 << 20 < size < 65 << 20
    assert sum("left out" in line.get("text", "") for line in lines if line["type"] == "stderr") == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"[]", "JSON object"),
        (b"{", "JSON object"),
        (b'{"code": 1}', "code must be a text"),
        (b"{}", "code is missing"),
        (b'{"code": "1", "env_vars": []}', None),
        (b'{"code": "1", "env_vars": 5}', "env_vars"),
        (b'{"code": "1", "language": "cobol"}', "not supported"),
        (b'{"code": "1", "language": "python", "context_id": "x"}', "Only one"),
        (b"[" * 100_000, "JSON object"),
    ],
)
def test_bad_requests_are_refused_with_a_text(interpreter: Interpreter, body: bytes, text: str | None):
    answer = interpreter.http.post("/execute", content=body)
    assert answer.status_code == (400 if text else 200)
    assert (text or "") in answer.text


def test_a_context_needs_a_directory_that_exists(interpreter: Interpreter):
    answer = interpreter.http.post("/contexts", json={"cwd": "/no/such/place"})
    assert (answer.status_code, answer.text) == (400, "There is no directory /no/such/place")
