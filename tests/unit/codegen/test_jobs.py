"""examples/jobs: a specification with another proto, document and lifecycle works as this one."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from codegen.__main__ import main
from tests.unit.codegen.project import ROOT

_EXAMPLE = ROOT / "examples/jobs"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its generated package."""
    folder = tmp_path_factory.mktemp("example") / "jobs"
    shutil.copytree(_EXAMPLE, folder, ignore=shutil.ignore_patterns("jobqueue_api"))
    assert main(["--root", str(folder), "generate"]) == 0
    return folder


@pytest.fixture(scope="module")
def module(jobs: Path) -> Iterator[Any]:
    """Imports a module of the example."""
    sys.path.insert(0, str(jobs))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(jobs))
        for name in [n for n in sys.modules if n.partition(".")[0] in ("jobqueue", "jobqueue_api")]:
            del sys.modules[name]


def test_what_was_generated_is_up_to_date(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(jobs), "check"]) == 0, capsys.readouterr().out


def test_a_builder_writes_its_document(module: Any) -> None:
    api = module("jobqueue_api.jobs.api_pb2")
    defaults = module("jobqueue_api.ticket.defaults")
    config = api.JobConfig(
        name="backup", command=["tar"], timeout_seconds=60, labels={"team": "a"}, password="p"
    )
    ticket = defaults.empty_ticket()
    module("jobqueue_api.ticket.job_config").apply(config, ticket)
    assert ticket.to_dict() == {
        "version": "1",
        "title": "backup",
        "argv": ["tar"],
        "limits": {"milliseconds": 60_000},
        "labels": {"team": "a"},
    }
    plan = module("jobqueue_api.plans").plan_queue(api.QueueRequest(config=config))
    assert (plan.name, plan.locked, plan.config) == ("backup", True, config)
    assert module("jobqueue_api.handlers.redacted").REDACTED == {"JobConfig": ("password",)}


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"name": "n", "command": ["c"]}, []),
        ({"command": ["c"]}, ["config.name: required"]),
        ({"name": "n" * 61, "command": ["c"]}, ["config.name: max_length"]),
        ({"name": "n", "command": ["c\0"]}, ["config.command: no_nul"]),
        (
            {"name": "n", "timeout_seconds": -1},
            ["config.command: required", "config.timeout_seconds: nonnegative"],
        ),
    ],
)
def test_a_validator_names_the_field_and_the_rule(
    module: Any, config: dict[str, Any], refused: list[str]
) -> None:
    request = module("jobqueue_api.jobs.api_pb2").QueueRequest(config=config)
    found = module("jobqueue_api.validators.queue_request").check(request)
    assert [f"{v.field.partition('[')[0]}: {v.rule}" for v in found] == refused


async def test_a_worker_takes_the_ticket_of_the_oldest_job(module: Any) -> None:
    api, plans = module("jobqueue_api.jobs.api_pb2"), module("jobqueue_api.plans")
    jobs = module("jobqueue.jobs.operations").Jobs()
    for name in ("first", "second"):
        config = {"name": name, "command": ["c"], "password": "p"}
        await jobs.queue(plans.plan_queue(api.QueueRequest(config=config)))
    job, ticket = jobs.take()
    assert (job.state.name, ticket.title, ticket.labels) == ("RUNNING", "first", {"locked": "yes"})
    jobs.end(job)
    assert job.state.name == "DONE"
    assert jobs.take()[1].title == "second"
    assert jobs.take() is None


async def test_the_handlers_look_up_and_check_states_over_grpc(module: Any, tmp_path: Path) -> None:
    api = module("jobqueue_api.jobs.api_pb2")
    grpc = module("jobqueue_api.jobs.api_pb2_grpc")
    address = f"unix:{tmp_path}/s"
    server = await module("jobqueue.server").serve(address)
    async with aio.insecure_channel(address) as channel:
        jobs = grpc.JobsStub(channel)
        queued = await jobs.Queue(api.QueueRequest(config={"name": "n", "command": ["c"]}))
        status = await jobs.Status(api.StatusRequest(id=queued.id))
        assert (status.id, status.name, status.state) == (queued.id, "n", api.JOB_QUEUED)
        await jobs.Cancel(api.CancelRequest(id=queued.id))
        await jobs.Cancel(api.CancelRequest(id="no such job"))
        assert (await jobs.Status(api.StatusRequest(id=queued.id))).state == api.JOB_DONE
        for call, code in (
            (jobs.Cancel(api.CancelRequest(id=queued.id)), StatusCode.FAILED_PRECONDITION),
            (jobs.Status(api.StatusRequest(id="no such job")), StatusCode.NOT_FOUND),
            (jobs.Queue(api.QueueRequest()), StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code
    await server.stop(None)


def test_a_project_without_a_record_is_told_so_once_and_can_record_everything(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(jobs, tmp_path / "jobs")
    (tmp_path / "jobs/spec/decided.yaml").unlink()
    assert main(["--root", str(tmp_path / "jobs"), "check"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("spec/decided.yaml: is missing, so nothing is recorded as decided")
    assert told.count("decided.yaml") == told.count("cri-codegen decide --all") == 1
    root = ["--root", str(tmp_path / "jobs")]
    assert main([*root, "decide", "--all"]) == 0
    assert (tmp_path / "jobs/spec/decided.yaml").read_text() == (
        jobs / "spec/decided.yaml"
    ).read_text()
    assert main([*root, "decide", "--all"]) == 1
    assert "each part that has changed since is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("explain plan.locked", "QueueRequest.config.password: compute plan.locked"),
        ("explain JobConfig.name", "spec/mapping/job_config.yaml:"),
        ("review", "12 fields in 7 messages, Jobs API 1.0"),
        ("diff 1.0 1.1", "- **field-gained** `StatusResponse.queued_seconds`: int64 = 4"),
    ],
)
def test_the_other_commands_know_it(
    jobs: Path, tmp_path: Path, command: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(jobs, tmp_path / "jobs")
    proto = (jobs / "spec/jobs/1.0.proto").read_text()
    newer = proto.replace("string name = 3;", "string name = 3;\n    int64 queued_seconds = 4;")
    (tmp_path / "jobs/spec/jobs/1.1.proto").write_text(newer)
    assert main(["--root", str(tmp_path / "jobs"), *command.split()]) == 0
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("mapping/job_config.yaml", "copy: title", "copy: titel", "the job ticket has no titel"),
        ("mapping/job_config.yaml", "jobs.v1.", "shop.v1.", "is not a message of jobs.v1"),
        ("rpc.yaml", "kind: job", "kind: jab", "spec/project.yaml names no object jab"),
        ("lifecycle.yaml", "job:", "jab:", "spec/project.yaml names no object jab"),
        ("lifecycle.yaml", "job:", "jab:", "the object job has no states"),
        ("lifecycle.yaml", "JOB_DONE", "JOB_DUN", "'JOB_DUN' is not a Jobs API state"),
        ("lifecycle.yaml", "emits: []", "emits: [A]", "spec/project.yaml names no enum of events"),
        ("project.yaml", "JobState", "JobStates", "the Jobs API has no enum JobStates"),
        ("project.yaml", "root: Ticket", "root: Tickets", "$defs has no object Tickets"),
        ("project.yaml", "package: jobs.v1", "package: jobs.v2", "are of jobs.v1"),
        ("project.yaml", "    document: ", "    documents: ", "unknown key 'documents'"),
        ("project.yaml", "output:", "outputs:", "unknown key 'outputs' in the file"),
        ("project.yaml", "spec/jobs", "../jobs", "api.protos must be a folder of spec/"),
        ("project.yaml", "  job:", "  print_job:", "must be one word in small letters"),
        ("project.yaml", "default.json", "missing.json", "missing.json: cannot be read"),
    ],
)
def test_its_mistakes_are_told_in_its_words(
    jobs: Path,
    tmp_path: Path,
    file: str,
    old: str,
    new: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(jobs, tmp_path / "jobs")
    path = tmp_path / "jobs/spec" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert main(["--root", str(tmp_path / "jobs"), "check"]) == 1
    told = capsys.readouterr()
    assert says in told.err
    assert "Traceback" not in told.err
