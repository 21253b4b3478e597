"""The contract: defaults of requests, and methods that are what they declare."""

import pytest

from methods.base import Example, Request, UserError
from methods.registry import METHODS, method_class, method_spec, resolve


def test_requests_and_examples_ask_for_a_mask_unless_told_otherwise():
    assert Request("image.png", ("it",)).want == ("mask",)
    assert Example("image.png", ("it",)).task == "segment"


@pytest.mark.parametrize("name", METHODS)
def test_every_registered_method_is_what_it_declares(name):
    spec = method_spec(name)
    assert (spec.name, method_class(name).name) == (name, name)
    for stage, declared in spec.stages.items():
        assert stage in resolve(declared.trainee).stages
        assert set(declared.tasks) and set(declared.losses)
    for reference in (spec.adaptive_length, spec.estimate, spec.convert):
        assert reference is None or callable(resolve(reference))
    for reference in spec.reference_checks:
        assert callable(resolve(reference).recognises) and callable(resolve(reference).check)
    assert spec.image_generation == hasattr(method_class(name), "generate")
    assert spec.int8 == hasattr(method_class(name), "quantise")


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'sam'.*himtok"):
        method_class("sam")
