import pytest

from isorl.plasticity.registry import Registry


def test_registration_and_lookup():
    registry = Registry("fruit")
    registry.register("apple")(1)

    @registry.register("pear")
    def pear():
        return 2

    assert registry["apple"] == 1
    assert registry["pear"] is pear
    assert list(registry) == ["apple", "pear"]
    assert "plum" not in registry
    assert registry.get("plum") is None


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_a_typo_is_answered_with_the_right_name(error):
    registry = Registry("metric")
    registry.register("dormant_units")(1)
    with pytest.raises(error) as caught:
        registry["dormat_units"]
    assert str(caught.value) == "unknown metric 'dormat_units'. Did you mean 'dormant_units'?"


def test_a_list_of_names_is_short():
    registry = Registry("fruit")
    for name in ("apple", "pear", "plum"):
        registry.register(name)(1)
    with pytest.raises(KeyError, match="Known: apple, pear, plum"):
        registry["zzz"]
    for number in range(20):
        registry.register(f"berry_{number}")(1)
    with pytest.raises(KeyError) as caught:
        registry["zzz"]
    assert "Nearest of 23: " in str(caught.value)
    assert str(caught.value).count(", ") == 4


def test_a_name_is_taken_once():
    registry = Registry("fruit")
    registry.register("apple")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("apple")
