"""Checks of compiled code, on texts as Triton and ptxas write them."""

from __future__ import annotations

import pytest

from bench import compiled_code

LOG = """\
ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due
ptxas info    : Function properties for attend
    16 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 223 registers, used 1 barriers, 16 bytes cumulative stack size
"""

PTX = """\
.reqntid 128
$L__BB0_1:                              // =>This Loop Header: Depth=1
	mov.b32 	%r9, 0;
$L__BB0_2:                              // Parent Loop BB0_1 Depth=1
	// begin inline asm
	cp.async.wait_group 2;
	// end inline asm
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r90];
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1, %f2}, %rd1, %rd2, p, 1, 1, 0, 0;
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1, %f2}, %rd3, %rd4, p, 1, 1, 0, 0;
	wgmma.wait_group.sync.aligned 0;
	ex2.approx.ftz.f32 %f3, %f1;
	ld.shared.f32 %f4, [%r91];
	@%p2 ld.global.b32 { %r5 }, [ %rd5 + 0 ];
	cp.async.cg.shared.global [ %r6 + 0 ], [ %rd6 + 0 ], 0x10, %r7;
	cp.async.cg.shared.global [ %r6 + 2048 ], [ %rd7 + 0 ], 0x10, %r7;
	cp.async.commit_group ;
	cp.async.ca.shared.global [ %r8 + 0 ], [ %rd8 + 0 ], 0x8, %r7;
	cp.async.commit_group ;
	@%p1 bra 	$L__BB0_2;
// %bb.3:
	@%p3 bra 	$L__BB0_1;
	bra.uni 	$L__BB0_4;
$L__BB0_4:
	ret;
"""

TTGIR = """\
#mma = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], \
instrShape = [16, 64, 16]}>
    %q = ttg.local_alloc %1 : (tensor<64x256xbf16, #blocked>) -> !ttg.memdesc<64x256xbf16, #shared>
    %k = ttg.local_alloc : () -> !ttg.memdesc<1x64x256xbf16, #shared, #smem, mutable>
    %k_0 = ttg.memdesc_index %k[%c0] : !ttg.memdesc<1x64x256xbf16> -> !ttg.memdesc<64x256xbf16>
    %5:2 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %x, %b = %y) -> (i32, f32)  : i32 {
      %6 = ttg.async_wait %b {num = 0 : i32} loc(#loc)
      %7 = ttg.memdesc_trans %k_0 {order = array<i32: 1, 0>} : !ttg.memdesc<64x256xbf16> -> !ttg
      %8 = ttg.local_load %7 : !ttg.memdesc<256x64xbf16> -> tensor<256x64xbf16, #dot>
      %9 = ttng.warp_group_dot %8, %7, %z {inputPrecision = 0 : i32} : tensor<64x256xbf16, #dot> \
* !ttg.memdesc<256x64xbf16> -> tensor<64x64xf32, #mma> loc(#loc)
      %10 = ttg.async_copy_global_to_local %p, %k_0 mask %m : tensor<64x256x!tt.ptr<bf16>> -> <64>
      scf.if %d {
        tt.store %o, %9
      }
      scf.yield %a, %10 : i32, f32
    } {tt.warp_specialize} loc(#loc)
"""


def test_log() -> None:
    assert compiled_code.registers(LOG) == 223
    assert compiled_code.spills(LOG) == 36
    assert compiled_code.serialised(LOG) == ["C7515"]
    assert compiled_code.serialised("ptxas info : (C7509) another") == []


def test_inner_loop() -> None:
    (loop,) = compiled_code.inner_loops(PTX)
    assert loop == compiled_code.Loop(
        matrix=2, waits=2, shared_loads=2, global_loads=1, copies=3, exponentials=1,
        overlapped=0, in_flight=40 * 128, unoverlapped=False, instructions=13, copied=40,
        # A quarter of two products of 64 x 64 x 16.
        flops=2 * 2 * 64 * 64 * 16 // 4,
        # Copies; 4 matrices of 8 rows; a number a thread, twice; both operands of the products.
        warp_bytes=32 * 40 + 4 * 8 * 16 + 2 * 32 * 4 + 2 * 2 * (64 * 16 * 2) // 4,
        pipelined=False,
    )  # fmt: skip
    around = compiled_code.outside(PTX)
    assert (around.instructions, around.matrix) == (3, 0)
    whole = compiled_code.count(PTX, 128)
    assert whole.instructions == loop.instructions + around.instructions


def test_products_of_a_warp() -> None:
    """By `mma` operands are in registers; the first of `wgmma` may be."""
    mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};"
    found = compiled_code.count(mma, 128)
    assert (found.flops, found.warp_bytes) == (2 * 16 * 8 * 16, 0)
    size = "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16"
    found = compiled_code.count(size + " {%f1, %f2}, {%r1, %r2}, %rd2, p, 1, 1, 1;", 128)
    assert (found.flops, found.warp_bytes) == (2 * 64 * 256 * 16 // 4, 256 * 16 * 2 // 4)


def test_computing_while_a_product_is_under_way() -> None:
    (loop,) = compiled_code.inner_loops(PTX.replace("aligned 0", "aligned 1"))
    assert loop.pipelined


def test_wait_for_every_copy() -> None:
    (loop,) = compiled_code.inner_loops(PTX.replace("wait_group 2", "wait_group 0"))
    assert loop.unoverlapped
    assert loop.in_flight == 0
    without = "\n".join(line for line in PTX.splitlines() if "shared.global" not in line)
    (loop,) = compiled_code.inner_loops(without.replace("wait_group 2", "wait_group 0"))
    assert not loop.unoverlapped, "it issues no copies"


BULK = """\
.reqntid 256
$L__BB0_1:
waitLoop:
	mbarrier.try_wait.parity.shared.b64 complete, [%r1], %r2;
	@!complete bra.uni waitLoop;
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1, %f2}, %rd1, %rd2, p, 1, 1, 0, 0;
	wgmma.commit_group.sync.aligned;
	@%p2 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 2048;
	@%p3 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 1024;
	@%p4 cp.async.bulk.tensor.3d.shared::cta.global.mbarrier::complete_tx::bytes [%r5], \
[%rd3, {%r6, %r7, %r8}], [%r3];
	ex2.approx.ftz.f32 %f3, %f1;
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f4, %f5}, %rd1, %rd2, p, 1, 1, 0, 0;
	wgmma.commit_group.sync.aligned;
	wgmma.wait_group.sync.aligned 1;
	ex2.approx.ftz.f32 %f6, %f4;
	wgmma.wait_group.sync.aligned 0;
	ex2.approx.ftz.f32 %f7, %f4;
	@%p1 bra 	$L__BB0_1;
"""


def test_bulk_copies() -> None:
    """Exponentials between a product and its wait, and copies after the last wait for one."""
    (loop,) = compiled_code.inner_loops(BULK)
    assert (loop.matrix, loop.waits, loop.copies, loop.exponentials) == (2, 3, 1, 3)
    assert (loop.overlapped, loop.in_flight, loop.unoverlapped) == (2, 3072, False)
    wait = "\tmbarrier.try_wait.parity.shared.b64 complete, [%r3], %r2;\n"
    (loop,) = compiled_code.inner_loops(BULK.replace("\t@%p1 bra", wait + "\t@%p1 bra"))
    assert loop.unoverlapped


def test_hottest_loop_has_the_products() -> None:
    loops = compiled_code.inner_loops(PTX + PTX.replace("BB0", "BB1").replace("wgmma.mma", "_"))
    assert len(loops) == 2
    assert compiled_code.hottest(loops) == loops[0]
    assert compiled_code.hottest([]) is None


def test_operand_read_back() -> None:
    assert compiled_code.reread_operands(TTGIR) == [], "each iteration copies other keys"
    q = TTGIR.replace("local_load %7", "local_load %q")
    assert compiled_code.reread_operands(q) == ["%q"]
    inside = q.replace("      %8", "      %q = ttg.local_alloc %a\n      %8")
    assert compiled_code.reread_operands(inside) == [], "other data every time"
    older = q.replace("ttng.warp_group_dot", "tt.dot")
    assert compiled_code.reread_operands(older) == [], "its tensor cores read registers"


@pytest.mark.parametrize(
    ("warps", "times"),
    [("[4, 1]", []), ("[8, 1]", ["64x64 2 times"]), ("[4, 2]", ["64x64 2 times"])],
)
def test_product_by_several_warps(warps: str, times: list[str]) -> None:
    assert compiled_code.duplicated_products(TTGIR.replace("[8, 1]", warps)) == times
