"""Parts of a fused tensor: put together by whoever brings the last one."""

from __future__ import annotations

import torch

from mats.checkpoints import TensorInfo
from mats.engine.fused_parts import Assembly


def test_parts_come_together_once_in_any_order():
    info, assembly, writer = TensorInfo("experts", torch.float32, (3, 2, 2)), Assembly(), object()
    parts = torch.arange(12.0).reshape(3, 2, 2)
    assert assembly.add(writer, info, 2, parts[2], {"name": "c"}) is None
    assert assembly.add(writer, info, 0, parts[0], {"name": "a"}) is None
    assert assembly.add(object(), info, 1, parts[1], None) is None, "another output's part"
    whole, told = assembly.add(writer, info, 1, parts[1], None)
    assert torch.equal(whole, parts)
    assert told == [{"name": "a"}, {"name": "c"}]
    assert assembly.add(writer, info, 1, parts[1], None) is None, "the next tensor of that name begins anew"
