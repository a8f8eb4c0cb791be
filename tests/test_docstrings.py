"""The example in the docstring of each public name runs."""

from doctest import ELLIPSIS, DocTestFinder, DocTestRunner

import pytest
import torch

import lps


@pytest.mark.parametrize("name", lps.__all__)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    torch.manual_seed(0)
    found = DocTestFinder().find(getattr(lps, name), name, False, {}, {"lps": lps, "torch": torch})
    examples = [test for test in found if test.examples]
    assert any(test.name == name for test in examples), f"{name} has no example"
    said: list[str] = []
    for test in examples:
        failed, _ = DocTestRunner(optionflags=ELLIPSIS).run(test, out=said.append)
        assert not failed, "".join(said)


def test_an_example_with_another_answer_is_found() -> None:
    (wrong,) = DocTestFinder().find(type("Wrong", (), {"__doc__": ">>> 1 + 1\n3"}), "Wrong", False, {}, {})
    assert DocTestRunner().run(wrong, out=lambda text: None).failed == 1
