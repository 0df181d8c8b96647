"""Tests how collectives are read from the text of a compiled program."""

from invariance_propagation.tasks.plan.collectives import (
    collectives_of,
    sent_by,
    size_of,
)

# As the compilers of CPU, TPU and GPU write them.
PROGRAM = """
  %x = (f32[8,4]{1,0}, s32[3]) all-reduce(%a, %b), channel_id=1, replica_groups={}
  %y = bf16[2,8]{1,0:T(8,128)} all-gather(%a), metadata={op_name="jit(f)/while/body/gather"}
  %s = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%c), dimensions={0}
  %d = f32[8,8]{1,0} all-gather-done(%s)
  %r = (f32[4]{0}, f32[2]{0}) all-reduce-start(%p, %q), to_apply=%add
  %m = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%z)
  %n = f32[9]{0} add(%a, %b)
"""


def test_each_collective_counts_by_its_results() -> None:
    found = collectives_of(PROGRAM)
    assert [(x.kind, x.arrays, x.num_bytes) for x in found] == [
        ("all-reduce", ("f32[8,4]", "s32[3]"), 128 + 12),
        ("all-gather", ("bf16[2,8]",), 32),
        ("all-gather", ("f32[8,8]",), 256),
        ("all-reduce", ("f32[4]", "f32[2]"), 24),
        ("collective-permute", ("f32[5]",), 20),
    ]
    assert [x.is_in_loop for x in found] == [False, True, False, False, False]
    assert found[1].origin == "jit(f)/while/body/gather"


def test_bytes_are_added_up_by_kind() -> None:
    assert list(sent_by(PROGRAM).items()) == [
        ("all-gather", 288),
        ("all-reduce", 164),
        ("collective-permute", 20),
    ]
    assert sent_by("") == {}
    assert size_of("f32[]") == 1 and size_of("pred8[3,4]") == 12
