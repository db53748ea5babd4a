"""Lambda, logs: all that an invocation has written is in its log.

In ministack:

- Lines that haven't arrived some milliseconds after the result are lost, what follows the last line break is in the
  next invocation's log, and nothing is logged any more after bytes that are not UTF-8.
- The error of code that can't be imported is not in the log.
- A missing log group is created even if the function's role may not create it.
"""

from contextlib import suppress
from io import TextIOWrapper
from queue import Empty
from typing import Any, Final

from ministack.core import iam_evaluator, lambda_runtime
from ministack.core.lambda_runtime import Worker
from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch_logs, lambda_svc

from xfarm.emulator.patches import patch

_END_OF_LOG: Final = "\0end of the log"
_LATE_S: Final = 5
"""How long to wait for the end of the log of a function that was killed, if a process that it started keeps it open."""

_drain_stderr_bounded = Worker._drain_stderr_bounded


def with_end_of_log(script: str) -> str:
    """Return ministack's program for Python functions so that it also marks the end of each invocation's log."""
    before, result, after = script.rpartition("        _real_stdout.flush()\n")
    return f"{before}        print({_END_OF_LOG!r}, file=sys.__stderr__, flush=True)\n{result}{after}"


def with_import_errors(script: str) -> str:
    """Return ministack's program for Python functions so that it answers with an import's error as Lambda names it.

    See `_get_handler` in aws/aws-lambda-python-runtime-interface-client.
    """
    prefix = (
        "(f\"Runtime.ImportModuleError: Unable to import module '{module_name}': \" if isinstance(e, ImportError) "
        'else f"{type(e).__name__}: ")'
    )
    return script.replace('{"status": "error", "error": str(e)}', f'{{"status": "error", "error": {prefix} + str(e)}}')


_SCRIPT: Final = "_PYTHON_WORKER_SCRIPT"
setattr(lambda_runtime, _SCRIPT, with_import_errors(with_end_of_log(getattr(lambda_runtime, _SCRIPT))))

_execute_function_warm = lambda_svc._execute_function_warm


@patch(lambda_svc, "_execute_function_warm")
def execute_function_warm(*args: Any) -> dict[str, Any]:  # noqa: ANN401 - as in ministack
    """Run a function; if its code can't be imported, that is in its log."""
    result = _execute_function_warm(*args)
    body = result.get("body")
    _, failed, error = str(body.get("errorMessage") if isinstance(body, dict) else "").partition("Worker init failed: ")
    return result | {"log": f"[ERROR] {error}"} if failed else result


@patch(Worker, "_read_stderr")
def read_stderr(worker: Worker) -> None:
    """Put the lines of a worker's log in its queue, and an end after the last."""
    stderr = worker._proc and worker._proc.stderr
    if isinstance(stderr, TextIOWrapper):
        stderr.reconfigure(encoding="utf-8", errors="replace")
        for line in stderr:
            worker._stderr_queue.put(line.rstrip("\n"))
    worker._stderr_queue.put(_END_OF_LOG)


@patch(Worker, "_drain_stderr_bounded")
def drain_stderr(worker: Worker, **waits: float) -> str:
    """Return the log of a worker's invocation, all of it."""
    if not worker.config.get("Runtime", "python").startswith("python"):
        return _drain_stderr_bounded(worker, **waits)
    lines: list[str] = []
    with suppress(Empty):
        while not lines or not lines[-1].endswith(_END_OF_LOG):
            lines.append(worker._stderr_queue.get(timeout=_LATE_S))
    return "\n".join(lines).removesuffix(_END_OF_LOG).rstrip("\n")


patch(Worker, "_drain_stderr")(drain_stderr)

_emit_lambda_logs = lambda_svc._emit_lambda_logs


@patch(lambda_svc, "_emit_lambda_logs")
def emit_lambda_logs(func: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as ministack calls it
    """Write an invocation's log lines, unless the log group is missing and the role may not create it.

    Lambda creates it with the function's role (`logs:CreateLogGroup`, "Managing permissions in AWS Lambda"). If the
    role may not, the lines are lost.
    """
    config = func.get("config") or func
    group = f"/aws/lambda/{config['FunctionName']}"
    if group not in cloudwatch_logs._log_groups:
        role = config["Role"].rpartition("/")[2]
        context = iam_evaluator.EvalContext(
            principal_arn=config["Role"],
            principal_type="AssumedRole",
            principal_account=get_account_id(),
            action="logs:CreateLogGroup",
            resource_arn=cloudwatch_logs._make_group_arn(group),
            region=get_region(),
        )
        policies = iam_evaluator._gather_role_policies(role, get_account_id())
        if iam_evaluator.evaluate(context, policies).decision != "Allow":
            return
    _emit_lambda_logs(func, *args, **kwargs)
