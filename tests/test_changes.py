"""A config that has changed says so key by key, and one that is only written otherwise has not changed."""

import json

import pytest

from dit_jax.config import HOLDOUT, build, default, stream
from dit_jax.training.changes import as_begun, changes, fixed

IMAGE = stream("image", shape=(8, 8, 1), process="gaussian(prediction='x', clock='one_minus_t')")


def config(**edits):
    whole = json.loads(default().to_json()) | {"streams": {"image": json.loads(json.dumps(IMAGE))}}
    for key, value in edits.items():
        section, *names = key.split("__")
        place = whole[section]
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("key", "value", "is_fixed"),
    [
        ("optimizer__learning_rate", 3e-4, False),
        ("optimizer__name", "muon", True),
        ("train__steps", 7, False),
        ("train__levels", "random_subsets", False),
        ("data__batch_size", 3, False),
        ("model__dtype", "bfloat16", False),
        ("model__remat", "full", False),
        ("model__unroll", 4, False),
        ("model__width", 48, True),
        ("model__weights", "learned", True),
        ("model__attention", "factorised", True),
        ("model__block", "modern(norm='layer')", True),
        ("streams__image__patch", 4, True),
        ("streams__image__levels", "uniform()", True),
        ("streams__image__process", "gaussian(prediction='v', clock='one_minus_t')", True),
    ],
)
def test_what_changes_is_named_and_some_of_it_may_not(key, value, is_fixed):
    was, now = config(), config(**{key: value})
    name = key.replace("__", ".")
    *above, entry = key.split("__")
    place = was
    for part in above:
        place = place[part]
    assert changes(was, now) == {name: (place[entry], value)}
    assert [*fixed(changes(was, now))] == ([name] if is_fixed else [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("streams__image__process", "gaussian(prediction='x', clock='reversed_unit')"),
        ("streams__image__process", "gaussian(clock='one_minus_t')"),
        ("streams__image__process", "gaussian( clock = 'one_minus_t',schedule='rectified' )"),
        ("streams__image__levels", "logit_normal(std=0.8, mean=0.8, shift=1)"),
        ("model__block", "published()"),
        ("model__block", "published(norm='layer')"),
    ],
)
def test_what_is_only_written_otherwise_has_not_changed(key, value):
    assert changes(config(), config(**{key: value})) == {}


def test_the_former_name_of_a_row_is_the_row():
    assert changes(config(train__levels="corners"), config(train__levels="random_subsets")) == {}


def test_a_text_that_nothing_understands_is_compared_as_it_is():
    odd = "gaussian(1 +"
    assert changes(config(streams__image__process=odd), config(streams__image__process=odd)) == {}
    assert [*changes(config(streams__image__process=odd), config())] == ["streams.image.process"]


def test_streams_that_come_and_go_have_changed():
    more = config()
    more["streams"]["label"] = stream("label", classes=3)
    assert [*fixed(changes(config(), more))] == [*fixed(changes(more, config()))] == ["streams.label"]


def test_nothing_is_held_out_of_a_run_that_is_older_than_that():
    """New runs have the default, dicts without the entry none, and a run without it goes on without it, for good."""
    new, old = build(config()), config()
    del old["data"]["holdout"]
    assert new.data.holdout == HOLDOUT == new.config["data"]["holdout"] and build(old).data.holdout == 0
    assert as_begun(new, None) is new and as_begun(new, config(data__holdout=0.3)) is new
    resumed = as_begun(new, old)
    assert resumed.data.holdout == 0 and "holdout" not in resumed.config["data"]
    assert as_begun(build(config(data__holdout=0.5)), resumed.config).data.holdout == 0
    assert resumed.config["streams"] == new.config["streams"] and resumed.data.batch_size == new.data.batch_size
