"""Which IDs of the node correspond to the IDs of a pod."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.transforms.facts import User
from runtime.transforms.id_maps import IdMap, IdMaps, id_maps

MAPS = IdMaps(IdMap(100000, 1000), IdMap(200000, 500))


def test_a_plan_without_a_user_namespace_has_no_ids() -> None:
    assert id_maps("", "") is None


def test_the_forms_of_a_range() -> None:
    maps = id_maps("0:100000:1000", "0:200000:500")
    assert maps == MAPS
    assert (MAPS.uids.label, MAPS.uids.line) == ("0:100000:1000", "0 100000 1000")


def test_the_owner_of_a_process_is_a_user_of_the_node() -> None:
    assert MAPS.root == (100000, 200000)
    assert MAPS.owner(User(uid=33, gid=44, additional_gids=(44, 499))) == (100033, 200044)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (User(uid=1000), "user 1000 .* which has IDs 0 to 999"),
        (User(gid=500), "group 500 .* which has IDs 0 to 499"),
        (User(additional_gids=(0, 65534)), "group 65534 "),
    ],
)
def test_an_id_that_the_pod_lacks_is_refused(user: User, message: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"security_context\.run_as_user: {message}"):
        MAPS.owner(user)


def test_a_file_of_an_id_that_the_pod_lacks_belongs_to_nobody_of_the_pod() -> None:
    assert MAPS.of_file(999, 499) == (100999, 200499)
    assert MAPS.of_file(1000, 100000) == (0, 0)
