"""What a program's time is spent on: loops over layers and tokens, products, kernels."""

import pytest

from seqarch.costs.bundles import KernelWork
from seqarch.costs.hlo import parse
from seqarch.costs.schedule import Rates
from seqarch.costs.shares import LAYERS, OUTSIDE, PRODUCTS, TOKENS, seconds_by_part
from tests.costs.hlo_text import BIG, cycles, program
from tests.costs.test_time import BODY, CONDITION, loop

PRODUCT = (
    f"%inner (a: {BIG}) -> {BIG} {{\n  %a = {BIG} parameter(0)\n"
    f"  ROOT %c = {BIG} convolution(%a, %a), dim_labels=bf_io->bf\n}}\n"
    f"%outer (b: {BIG}) -> {BIG} {{\n  %b = {BIG} parameter(0)\n"
    f"  ROOT %d = {BIG} fusion(%b), kind=kOutput, calls=%inner\n}}\n"
)
AROUND = [
    f"%product = {BIG} fusion(%x), kind=kOutput, calls=%outer, {cycles(700)}",
    f'%scan_forward.12 = {BIG} custom-call(%x), custom_call_target="tpu_custom_call"',
]


def parts(loops):
    body = [*AROUND, *loop("constant(0)", "constant(5)")]
    module = parse(program(body, PRODUCT, BODY, CONDITION))
    kernel = lambda name: KernelWork(40, 0)
    return seconds_by_part(module, Rates(1.0, 1.0, None), kernel, loops)


@pytest.mark.parametrize("loops, part", [((1, 5), LAYERS), ((1, 7), TOKENS), ((5, 7), OUTSIDE)])
def test_each_part_has_its_seconds(loops, part):
    expected = {PRODUCTS: 700, OUTSIDE: 300, "scan_forward": 40}
    expected[part] = expected.get(part, 0) + 5 * 1100
    assert parts(loops) == {name: pytest.approx(value) for name, value in expected.items()}
