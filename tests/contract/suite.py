"""One contract that every driver passes, fakes and real ones alike.

A driver's test module builds a :class:`Subject` in a clean place (an own network namespace, a temporary folder) and runs
every check on it, each in a fresh place::

    from tests.contract import suite

    @pytest.fixture
    def subject(own_namespace) -> suite.Subject: ...

    @pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
    def test_contract(subject: suite.Subject, check: suite.Check) -> None:
        check(subject)

What the real tool prints is the judge: a check compares it before and after, and never asks the driver alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kuberouterpy.dataplane import Key, Object, Op, Verb, requires
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.fake import FakeDriver, FakeKernel
from kuberouterpy.errors import DriverError
from kuberouterpy.lab.engine import kernel


def nothing() -> None:
    """Plant nothing."""


@dataclass(frozen=True)
class Subject:
    """A driver under test, in a clean place of its own."""

    restart: Callable[[Sequence[Object]], Driver]
    """Return a new driver without memory, told only what is wanted (most drivers ignore it)."""
    samples: tuple[Object, ...]
    """Several objects of each kind and both families; what one requires stands before it, or in ``around``."""
    outside: Callable[[], Sequence[str]]
    """What the real tool prints, line by line: ours and foreign, without counters and random words, sorted if unordered."""
    changes: Mapping[Key, Object] = field(default_factory=dict)
    """For keys of ``samples``: another value under the same key."""
    foreign: Callable[[], None] = nothing
    """Plant objects of others that look as like ours as they may."""
    around: tuple[Object, ...] = ()
    """Objects of other drivers that the place already has (the link of a route, the set of a chain)."""
    orphans: tuple[Object, ...] = ()
    """Objects whose requirement is nowhere: creating one must fail."""
    delete_leaves_value: bool = False
    """Deleting a kernel setting leaves it: the tool prints it still."""
    examples: int = 8
    """How many random sequences to try."""


Check: TypeAlias = Callable[[Subject], None]


def named(check: Check) -> str:
    """Return the check's sentence, for pytest ids."""
    return check.__name__


@contextmanager
def own_namespace() -> Iterator[None]:
    """Put this thread, and every program it runs, into a new network namespace; it goes when the block ends. Needs root."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            yield
        finally:
            kernel.enter(f"/proc/self/fd/{before}")
    finally:
        os.close(before)


# --- Building blocks --------------------------------------------------------------------------------------------------


def create(value: Object) -> Op:
    """Return the operation that creates ``value``."""
    return Op(Verb.CREATE, value.key, value)


def update(value: Object) -> Op:
    """Return the operation that changes the object of this key to ``value``."""
    return Op(Verb.UPDATE, value.key, value)


def delete(value: Object) -> Op:
    """Return the operation that deletes the object of this key."""
    return Op(Verb.DELETE, value.key, None)


def outcomes(driver: Driver, ops: Sequence[Op]) -> dict[Key, DriverError | None]:
    """Apply ``ops`` and return the last outcome of each key; every operation must be answered exactly once."""
    answers = list(driver.apply(ops))
    assert Counter(map(_word, ops)) == Counter(_word(op) for op, _ in answers)
    return {op.key: error for op, error in answers}


def applied(driver: Driver, ops: Sequence[Op]) -> None:
    """Apply ``ops``; every one must succeed."""
    failed = {key: str(error) for key, error in outcomes(driver, ops).items() if error}
    assert not failed


def as_dict(values: Iterable[Object]) -> dict[Key, Object]:
    """Return ``values`` by key."""
    return {value.key: value for value in values}


def _word(op: Op) -> tuple[str, str]:
    return op.verb.value, repr(op.key)


def _below(subject: Subject, value: Object) -> list[Object]:
    """Return the samples that ``value`` requires, directly or not, in order of creation."""
    needed = _closure(subject, value)
    return [sample for sample in subject.samples if sample.key in needed]


def _closure(subject: Subject, value: Object) -> set[Key]:
    samples = as_dict(subject.samples)
    found: set[Key] = set()
    waiting = [key for key in requires(value) if key != value.key]
    while waiting:
        key = waiting.pop()
        if key in samples and key not in found:
            found.add(key)
            waiting.extend(requires(samples[key]))
    return found


def _create_all(subject: Subject) -> Driver:
    driver = subject.restart(subject.samples)
    applied(driver, [create(value) for value in subject.samples])
    return driver


# --- The contract -----------------------------------------------------------------------------------------------------


def a_clean_place_lists_nothing(subject: Subject) -> None:
    """What is there before us is not ours."""
    assert subject.restart(())
    assert dict(subject.restart(()).list()) == {}


def created_objects_are_seen_outside_and_listed_equal(subject: Subject) -> None:
    """One by one: the tool sees a change, and a driver without memory lists the very value."""
    for value in subject.samples:
        driver = subject.restart(subject.samples)
        before = list(subject.outside())
        applied(driver, [create(value)])
        assert list(subject.outside()) != before, f"the tool sees nothing of {value}"
        assert driver.list()[value.key] == value
        assert subject.restart(subject.samples).list()[value.key] == value


def one_batch_creates_everything(subject: Subject) -> None:
    """A listing after the batch equals what was wanted, so a second plan is empty."""
    driver = _create_all(subject)
    assert dict(driver.list()) == as_dict(subject.samples)
    assert dict(subject.restart(subject.samples).list()) == as_dict(subject.samples)


def creating_again_succeeds_and_changes_nothing(subject: Subject) -> None:
    """EEXIST of an equal object is success."""
    driver = _create_all(subject)
    before = list(subject.outside())
    applied(driver, [create(value) for value in subject.samples])
    applied(subject.restart(subject.samples), [create(value) for value in subject.samples])
    assert list(subject.outside()) == before


def changes_arrive_and_can_be_taken_back(subject: Subject) -> None:
    """UPDATE reaches the tool; the way back gives the state of before."""
    driver = _create_all(subject)
    before = list(subject.outside())
    for key, value in subject.changes.items():
        applied(driver, [update(value)])
        assert driver.list()[key] == value
        assert list(subject.outside()) != before, f"the tool sees nothing of {value}"
        applied(driver, [update(as_dict(subject.samples)[key])])
        assert list(subject.outside()) == before


def create_of_a_different_object_changes_it(subject: Subject) -> None:
    """After a restart a plan may say CREATE where an old value stands."""
    driver = _create_all(subject)
    applied(driver, [create(value) for value in subject.changes.values()])
    wanted = as_dict(subject.samples) | dict(subject.changes)
    assert dict(driver.list()) == wanted
    assert dict(subject.restart(list(wanted.values())).list()) == wanted


def update_of_a_missing_object_creates_it(subject: Subject) -> None:
    """Someone else may have deleted it since the last listing."""
    driver = subject.restart(subject.samples)
    applied(driver, [update(value) for value in subject.samples])
    assert dict(driver.list()) == as_dict(subject.samples)


def deleted_objects_are_gone(subject: Subject) -> None:
    """In reverse order, in one batch, by a driver that has seen nothing before; and again."""
    before = list(subject.outside())
    _create_all(subject)
    driver = subject.restart(())
    for _ in range(2):
        applied(driver, [delete(value) for value in reversed(subject.samples)])
        assert dict(driver.list()) == {}
        assert subject.delete_leaves_value or list(subject.outside()) == before


def deleting_what_never_was_succeeds(subject: Subject) -> None:
    """ENOENT on delete is success, also where the parent is missing."""
    before = list(subject.outside())
    applied(subject.restart(()), [delete(value) for value in reversed(subject.samples)])
    assert list(subject.outside()) == before


def a_missing_requirement_fails_alone(subject: Subject) -> None:
    """The object fails, the others of the batch stand."""
    driver = subject.restart(subject.samples)
    for orphan in subject.orphans:
        answers = outcomes(driver, [create(subject.samples[0]), create(orphan), create(subject.samples[0])])
        assert isinstance(answers[orphan.key], DriverError), f"{orphan} needs what is not there"
        assert answers[subject.samples[0].key] is None
        assert dict(driver.list()) == as_dict(subject.samples[:1])
    applied(driver, [delete(subject.samples[0])])
    for value in subject.samples:
        if needed := _closure(subject, value):
            others = [
                other
                for other in subject.samples
                if other.key != value.key and not {other.key, *_closure(subject, other)} & {value.key, *needed}
            ]
            answers = outcomes(driver, [create(value), *(create(other) for other in others)])
            assert isinstance(answers.pop(value.key), DriverError), f"{value} needs {needed}"
            assert not any(answers.values())
            assert dict(driver.list()) == as_dict(others)
            applied(driver, [delete(other) for other in reversed(others)])


def operations_of_one_batch_follow_their_order(subject: Subject) -> None:
    """The last word on a key counts."""
    if subject.delete_leaves_value:
        return
    driver = subject.restart(subject.samples)
    for value in subject.samples:
        below = [create(other) for other in _below(subject, value)]
        applied(driver, [*below, create(value), delete(value)])
        assert value.key not in driver.list()
        applied(driver, [create(value), delete(value), create(value)])
        assert driver.list()[value.key] == value
        if value.key in subject.changes:
            changed = subject.changes[value.key]
            applied(driver, [update(changed), update(value), update(changed)])
            assert driver.list()[value.key] == changed
        applied(driver, [delete(other) for other in reversed((*_below(subject, value), value))])
        assert dict(driver.list()) == {}


def objects_of_others_are_neither_listed_nor_touched(subject: Subject) -> None:
    """Line for line they stay while ours come, change and go."""
    subject.foreign()
    planted = list(subject.outside())
    assert dict(subject.restart(()).list()) == {}
    driver = _create_all(subject)
    applied(driver, [update(value) for value in subject.changes.values()])
    missing = Counter(planted) - Counter(subject.outside())
    assert subject.delete_leaves_value or not missing
    assert dict(driver.list()) == as_dict(subject.samples) | dict(subject.changes)
    applied(driver, [delete(value) for value in reversed(subject.samples)])
    assert subject.delete_leaves_value or list(subject.outside()) == planted


def random_sequences_end_as_the_fake_says(subject: Subject) -> None:
    """Batches of operations the fake accepts are accepted, and both list the same. This proves the fake, too."""
    choices = [*subject.samples, *subject.changes.values()]
    words = st.lists(st.tuples(st.sampled_from(Verb), st.sampled_from(choices)), min_size=1, max_size=10)

    @settings(
        max_examples=subject.examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(words, min_size=1, max_size=4))
    def walk(batches: list[list[tuple[Verb, Object]]]) -> None:
        driver = subject.restart(subject.samples)
        applied(driver, [delete(value) for value in reversed(subject.samples)])
        fake = FakeDriver(driver.kinds, kernel=FakeKernel())
        fake.kernel.plant(*subject.around)
        for batch in batches:
            ops = [Op(verb, value.key, None if verb is Verb.DELETE else value) for verb, value in batch]
            accepted = [op for op, error in fake.apply(ops) if error is None]
            applied(driver, accepted)
            assert dict(driver.list()) == dict(fake.list())
            assert dict(subject.restart(list(fake.list().values())).list()) == dict(fake.list())

    walk()


CHECKS: Final[tuple[Check, ...]] = (
    a_clean_place_lists_nothing,
    created_objects_are_seen_outside_and_listed_equal,
    one_batch_creates_everything,
    creating_again_succeeds_and_changes_nothing,
    changes_arrive_and_can_be_taken_back,
    create_of_a_different_object_changes_it,
    update_of_a_missing_object_creates_it,
    deleted_objects_are_gone,
    deleting_what_never_was_succeeds,
    a_missing_requirement_fails_alone,
    operations_of_one_batch_follow_their_order,
    objects_of_others_are_neither_listed_nor_touched,
    random_sequences_end_as_the_fake_says,
)

FEW: Final[tuple[Check, ...]] = (
    creating_again_succeeds_and_changes_nothing,
    create_of_a_different_object_changes_it,
    deleted_objects_are_gone,
    objects_of_others_are_neither_listed_nor_touched,
)
"""The checks that start few programs: a guest in which each start takes a tenth of a second runs these."""
