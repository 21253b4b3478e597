"""Training several stages in a row."""

import pytest

from bench.train.run import train
from methods.base import UserError


def test_an_unknown_stage_is_refused(small):
    with pytest.raises(UserError, match="no stage 'two' in profile small; choose from backbone, tokens"):
        train(small, ["himtok", "two"])
