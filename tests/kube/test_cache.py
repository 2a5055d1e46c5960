"""The informer's memory: nothing known gets older, nothing deleted comes back, and no ghost survives a list."""

import pytest

from finetune_operator.kube import cache as cache_module
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.versions import is_newer


def entry(uid: str, version: int = 1, *, namespace: str = "a", owner: str = "job") -> Entry[str]:
    return Entry(
        namespace=namespace,
        name=f"name-{uid}",
        uid=uid,
        resource_version=str(version),
        owner_key=(namespace, owner),
        owner_uid=owner,
        value=f"{uid}@{version}",
    )


def test_members_are_found_by_the_uid_of_their_job() -> None:
    cache: ObjectCache[str] = ObjectCache()
    for one in (entry("1"), entry("2"), entry("3", owner="other")):
        cache.apply(one)
    assert set(cache.of_owner("a", "job")) == {"1@1", "2@1"}
    assert cache.of_owner("a", "nobody") == ()


def test_an_older_version_changes_nothing() -> None:
    cache: ObjectCache[str] = ObjectCache()
    assert cache.apply(entry("1", 9))
    assert not cache.apply(entry("1", 10 - 1))
    assert not cache.apply(entry("1", 3))
    assert cache.apply(entry("1", 10))
    assert cache.of_owner("a", "job") == ("1@10",)


def test_a_late_answer_does_not_bring_a_deleted_object_back() -> None:
    cache: ObjectCache[str] = ObjectCache()
    cache.apply(entry("1", 1))
    assert cache.remove("1") == entry("1", 1)
    assert not cache.apply(entry("1", 5))
    assert cache.of_owner("a", "job") == ()


def test_a_list_removes_what_was_deleted_while_nobody_watched() -> None:
    cache: ObjectCache[str] = ObjectCache()
    for uid in "123":
        cache.apply(entry(uid))
    changed, gone = cache.replace(None, [entry("1"), entry("2", 7)], "10")
    assert [one.uid for one in changed] == ["2"]
    assert [one.uid for one in gone] == ["3"]
    assert set(cache.of_owner("a", "job")) == {"1@1", "2@7"}


def test_a_list_keeps_what_was_created_after_it_was_made() -> None:
    cache: ObjectCache[str] = ObjectCache()
    cache.apply(entry("ours", 12))
    _, gone = cache.replace(None, [], "10")
    assert gone == []
    assert cache.of_owner("a", "job") == ("ours@12",)


def test_a_list_of_one_namespace_says_nothing_about_another() -> None:
    cache: ObjectCache[str] = ObjectCache()
    cache.apply(entry("1", namespace="a"))
    cache.apply(entry("2", namespace="b"))
    _, gone = cache.replace("a", [], "10")
    assert [one.uid for one in gone] == ["1"]
    assert cache.of_owner("b", "job") == ("2@1",)


def test_an_object_that_is_left_aside_may_come_back_and_one_that_was_deleted_may_not() -> None:
    cache: ObjectCache[str] = ObjectCache()
    cache.apply(entry("1", 1))
    assert cache.discard("1") == entry("1", 1)
    assert cache.discard("1") is None
    assert cache.apply(entry("1", 1))
    assert len(cache) == 1
    cache.remove("1")
    assert (len(cache), cache.get("1"), cache.remove("1")) == (0, None, None)


def test_what_is_remembered_as_deleted_is_bounded_and_the_oldest_goes_first(monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_MAX_TOMBSTONES", 3)
    cache: ObjectCache[str] = ObjectCache()
    for number in range(5):
        cache.remove(str(number))
    assert [cache.apply(entry(str(number))) for number in range(5)] == [True, True, False, False, False]


def test_an_object_that_changes_its_owner_is_found_under_the_new_one_alone() -> None:
    cache: ObjectCache[str] = ObjectCache()
    cache.apply(entry("1", 1))
    cache.apply(entry("1", 2, owner="other"))
    assert (cache.of_owner("a", "job"), cache.of_owner("a", "other")) == ((), ("1@2",))
    assert cache._by_owner.keys() == {("a", "other")}, "nothing is kept of an owner without children"


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("9", "9", False),
        ("x", "9", True),
        ("x", "x", False),
        ("9", "x", True),
        ("\u00b2", "9", True),
    ],
)
def test_versions_are_numbers_and_a_strange_one_counts_as_news(version, than, newer) -> None:
    assert is_newer(version, than) is newer
