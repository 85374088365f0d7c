"""Users and groups from the files of the image, as in the built-in plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.plans import plan_new_container, plan_new_pod
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.lookups.layers import Layers
from runtime.lookups.users import (
    MAX_FILE_BYTES,
    GroupEntry,
    PasswdEntry,
    UserDatabase,
    UserDatabases,
    needs_database,
    read_database,
    resolve,
)
from runtime.transforms import facts
from runtime.transforms.facts import RequestedUser, User

DATABASE = UserDatabase(
    users=(
        PasswdEntry("root", 0, 0),
        PasswdEntry("web", 1000, 1001),
        PasswdEntry("web2", 1000, 7),
    ),
    groups=(
        GroupEntry("root", 0, ()),
        GroupEntry("wheel", 10, ("root",)),
        GroupEntry("web", 1001, ("web",)),
        GroupEntry("logs", 50, ("other", "web")),
        GroupEntry("www", 33, ("web",)),
    ),
)


def wanted(image_user: str = "", **fields: object) -> RequestedUser:
    """What the mapping makes of a container's security context."""
    config = api_pb2.ContainerConfig()
    message = config.linux.security_context
    for name, value in fields.items():
        if name in ("run_as_user", "run_as_group"):
            getattr(message, name).value = value
        elif name == "supplemental_groups":
            message.supplemental_groups.extend(value)  # type: ignore[arg-type]
        else:
            setattr(message, name, value)
    host, image = facts.Host(hostname="node"), facts.Image(user=image_user)
    pod = facts.Sandbox(
        facts.SandboxMetadata("p", "p", api_pb2.PodSandboxConfig()),
        facts.SandboxStatus(SandboxState.READY),
    )
    return plan_new_container(config, host=host, image=image, sandbox=pod).user


def wanted_by_pod(**fields: object) -> RequestedUser:
    """What the mapping makes of a pod's security context."""
    config = api_pb2.PodSandboxConfig()
    config.linux.security_context.MergeFrom(
        api_pb2.LinuxSandboxSecurityContext(**fields)  # type: ignore[arg-type]
    )
    return plan_new_pod(config, host=facts.Host(hostname="node"), image=facts.Image()).user


@pytest.mark.parametrize(
    ("fields", "image_user", "expected"),
    [
        pytest.param({}, "", User(0, 0, (0, 10)), id="nobody-says-root"),
        pytest.param({}, "web", User(1000, 1001, (33, 50, 1001), "web"), id="image-name"),
        pytest.param({}, "web:www", User(1000, 33, (33, 50), "web"), id="image-name-and-group"),
        pytest.param({}, ":50", User(0, 50, (10, 50)), id="image-group-alone"),
        pytest.param({}, "1000:5", User(1000, 5, (5, 33, 50)), id="image-numbers"),
        pytest.param({"run_as_user": 1000}, "root", User(1000, 1001, (33, 50, 1001)), id="uid"),
        pytest.param({"run_as_user": 4}, "", User(4, 0, (0,)), id="uid-that-no-line-has"),
        pytest.param(
            {"run_as_user": 1000, "run_as_group": 8}, "", User(1000, 8, (8, 33, 50)), id="uid-gid"
        ),
        pytest.param(
            {"run_as_username": "web", "run_as_user": 0},
            "",
            User(1000, 1001, (33, 50, 1001), "web"),
            id="name-wins-over-number",
        ),
        pytest.param(
            {"run_as_user": 1000, "supplemental_groups": [9, 33]},
            "",
            User(1000, 1001, (9, 33, 50, 1001)),
            id="merge",
        ),
        pytest.param(
            {
                "run_as_user": 1000,
                "supplemental_groups": [9],
                "supplemental_groups_policy": api_pb2.SupplementalGroupsPolicy.Strict,
            },
            "",
            User(1000, 1001, (9, 1001)),
            id="strict-ignores-the-image",
        ),
    ],
)
def test_container_user(fields: dict[str, object], image_user: str, expected: User) -> None:
    assert resolve(wanted(image_user, **fields), DATABASE) == expected


def test_a_pod_without_a_user_has_only_the_requested_groups() -> None:
    assert resolve(wanted_by_pod(), DATABASE) == User(0, 0, ())
    assert resolve(wanted_by_pod(supplemental_groups=[7]), DATABASE) == User(0, 0, (7,))


def test_a_container_without_a_user_keeps_the_group_of_its_process() -> None:
    strict = api_pb2.SupplementalGroupsPolicy.Strict
    found = resolve(wanted("", supplemental_groups_policy=strict), DATABASE)
    assert found == User(0, 0, (0,))


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("nobody", "no user 'nobody'"),
        ("web:nobody", "no group 'nobody'"),
        ("-1", "no user '-1'"),
        ("+5", "no user"),
    ],
)
def test_names_must_be_in_the_image(user: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        resolve(wanted(user), DATABASE)


@pytest.mark.parametrize("number", ["2147483648", "4294967296", "9" * 5000])
@pytest.mark.parametrize("form", ["{}", "{}:0", "0:{}", ":{}"])
def test_number_out_of_range_is_refused_though_the_image_has_it_as_a_name(
    number: str, form: str
) -> None:
    """The check for runAsNonRoot takes it for a number, but as a name it would be root here."""
    hostile = UserDatabase((PasswdEntry(number, 0, 0),), (GroupEntry(number, 0, ()),))
    with pytest.raises(InvalidArgument, match="is out of range: 0 to 2147483647 are allowed"):
        resolve(wanted(form.format(number)), hostile)


def test_leading_zeros_do_not_make_a_number_a_name() -> None:
    number = "0" * 12 + "1000"
    hostile = UserDatabase((PasswdEntry(number, 0, 0),), (GroupEntry(number, 0, ()),))
    found = resolve(wanted(f"{number}:{number}"), hostile)
    assert (found.uid, found.gid, found.username) == (1000, 1000, "")


def test_a_group_needs_a_user() -> None:
    with pytest.raises(InvalidArgument, match="run_as_group requires"):
        wanted("root", run_as_group=5)
    with pytest.raises(InvalidArgument, match="run_as_group requires"):
        wanted_by_pod(run_as_group=api_pb2.Int64Value(value=5))


def test_the_pause_process_gets_no_groups_of_its_image() -> None:
    pod = wanted_by_pod(run_as_user=api_pb2.Int64Value(value=1000), supplemental_groups=[9])
    assert resolve(pod, DATABASE) == User(1000, 1001, (9, 1001))
    assert resolve(pod, UserDatabase()) == User(1000, 0, (0, 9))


@pytest.mark.parametrize(
    ("user", "needs"),
    [
        (RequestedUser("1:2", "", ()), False),
        (RequestedUser("1:2", "1", ()), True),
        (RequestedUser("1", "", ()), True),
        (RequestedUser("web:2", "", ()), True),
        (RequestedUser("1:www", "", ()), True),
    ],
)
def test_the_files_are_needed_unless_all_is_numeric(user: RequestedUser, needs: bool) -> None:
    assert needs_database(user) is needs


def test_hostile_lines_are_skipped(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_bytes(
        b"#root:x:9:9::/:\n\nbroken\nx:y\nneg:x:-1:0::/:\nbig:x:99999999999:0::/:\n"
        b"nogid:x:5\n  spaced:x:5:6::/:\n\xff\xfe:x:7:8::/:\nroot:x:0:0\n"
    )
    (etc / "group").write_bytes(b"wheel:x:10:root, web,,\nbad:x:ten:root\nempty:x:11:\nshort:x:12")
    database = read_database(Layers((str(tmp_path),)))
    assert database.users == (
        PasswdEntry("spaced", 5, 6),
        PasswdEntry("\udcff\udcfe", 7, 8),
        PasswdEntry("root", 0, 0),
    )
    assert database.groups == (
        GroupEntry("wheel", 10, ("root", "web")),
        GroupEntry("empty", 11, ()),
        GroupEntry("short", 12, ()),
    )


def test_an_image_without_files_has_an_empty_database(tmp_path: Path) -> None:
    assert read_database(Layers((str(tmp_path),))) == UserDatabase()


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(FailedPrecondition, match="larger than"):
        read_database(Layers((str(tmp_path),)))


def test_each_image_is_read_once_and_the_oldest_is_forgotten() -> None:
    reads: list[str] = []

    def reader(chain_id: str) -> UserDatabase:
        reads.append(chain_id)
        return DATABASE

    databases = UserDatabases(images=2)
    for chain_id in ["a", "b", "a", "c", "a", "b"]:
        databases.get(chain_id, lambda c=chain_id: reader(c))  # type: ignore[misc]
    assert reads == ["a", "b", "c", "b"]
    assert databases.known("c") is None
    assert databases.known("a") is DATABASE
