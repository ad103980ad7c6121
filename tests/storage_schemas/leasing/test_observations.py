"""How long a value has been seen as it is, by a clock that is given."""

from soapworks.storage_schemas.leasing.observations import Observations


def test_a_new_value_starts_the_time_afresh() -> None:
    seen = Observations()
    assert [seen.unchanged_for("a", "f", now) for now in (5.0, 7.0)] == [0.0, 2.0]
    assert [seen.unchanged_for("a", "g", now) for now in (8.0, 9.5)] == [0.0, 1.5]
    assert seen.unchanged_for("a", "f", 10.0) == 0.0


def test_names_are_seen_apart() -> None:
    seen = Observations()
    assert [seen.unchanged_for(name, "f", 5.0) for name in ("a", "b")] == [0.0, 0.0]
    assert [seen.unchanged_for(name, "f", 9.0) for name in ("a", "b")] == [4.0, 4.0]
