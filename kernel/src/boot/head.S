// The first instructions: from the loader's jump to the MMU's first walk.
// Runs before anything; hands over to early.rs (MMU off) and kmain (MMU on).
//
// Entry, as the Linux arm64 boot protocol has it: x0 = physical address of the
// device tree (0 from QEMU's ELF loader), MMU off, any 2 MiB-aligned base,
// EL2 or EL1. Everything is PC-relative until the image has been relocated.
//
// Register use, from primary_entry to kmain:
//   x19  CurrentEL at entry
//   x21  device tree, physical address
//   x22  image (_text), physical address
//   x23  x22 - KIMAGE_VADDR: what relocation adds while the MMU is off

.section .head.text, "ax"

.type primary_entry, %function
primary_entry:
	mov	x21, x0
	mrs	x19, CurrentEL

	// From here on an exception is recorded, at each EL.
	adr_l	x1, vectors
	cmp	x19, #(2 << 2)
	set_vbar x1
	little_endian x1		// the loader need not have been
	msr	daifset, #0xf		// U-Boot leaves SError unmasked

	// QEMU's ELF loader starts every CPU here, all with x0 = 0, at EL3 with
	// secure=on: the others park before they read or write memory. A CPU that
	// brings a device tree is the one that the boot protocol lets in, whatever
	// its number.
	mrs	x1, mpidr_el1
	mov_q	x2, 0xff00ffffff	// Aff3, Aff2, Aff1, Aff0
	tst	x1, x2
	b.eq	5f
	cbz	x21, refuse_secondary
5:
	// The identity map and the linear map rely on what the boot protocol says.
	adr	x22, _text		// not adrp: that hides an offset below 4 KiB
	tst	x22, #0x1fffff
	b.ne	refuse_base

	bl	open_black_box

	cmp	x19, #(2 << 2)
	b.hi	refuse_el3
	b.ne	6f
	mrs	x1, sctlr_el2
	tbnz	x1, #0, refuse_mmu_on
	bl	el2_to_el1		// leaves SCTLR_EL1.M clear
6:
	mrs	x1, sctlr_el1
	tbnz	x1, #0, refuse_mmu_on
	msr	spsel, #1		// the loader may have used SP_EL0
	mov_q	x1, SCTLR_EL1_MMU_OFF
	msr	sctlr_el1, x1
	isb				// alignment checks on for what follows

	// The loader cleaned what it loaded, not the rest of image_size: write
	// back what it may have left dirty there, lest an eviction overwrite
	// what is stored below with the caches off.
	adr_l	x0, __bss_start
	adr_l	x1, _end
	bl	dcache_clean_inval_poc

	adr_l	x1, init_stack_top
	mov	sp, x1
	mov	x29, xzr		// the end of every call trace
	mov	x30, xzr

	enter_stage STAGE_RELOCATE
	bl	relocate_to_here

	adr_l	x0, __bss_start
	adr_l	x1, __bss_stop
	bl	zero
	enter_stage STAGE_IDMAP
	bl	create_idmap

	mov	x0, x21
	mov	x1, x22
	mov	x2, x19
	bl	early_main		// x0 = MmuRegisters

	bl	enable_mmu

	// Still at the physical address, now through the identity map.
	adr_l	x8, primary_switched
	sub	x8, x8, x23
	br	x8
.size primary_entry, . - primary_entry

// At KIMAGE_VADDR. TTBR0 still holds the identity map, which is what every
// pointer of the first relocation pass needs until the second is done.
.type primary_switched, %function
primary_switched:
	adr_l	x9, black_box
	str	xzr, [x9, #BB_DISPLACEMENT]
	mov	x0, xzr
	mov	x1, xzr
	bl	relocate_image

	adr_l	x1, vectors
	msr	vbar_el1, x1
	isb				// vectors before anything that can fault high
	adr_l	x1, init_stack_top
	mov	sp, x1
	mov	x29, xzr
	mov	x30, xzr
	bl	kmain
.size primary_switched, . - primary_switched

// The first pass of relocation: to the physical address, which the black box is told.
//   In: x22 = _text. Out: x23 = displacement. Clobbers x0-x6, x9, x10.
.type relocate_to_here, %function
relocate_to_here:
	mov	x10, x30
	mov_q	x1, KIMAGE_VADDR
	sub	x23, x22, x1
	adr_l	x9, black_box
	str	x22, [x9, #BB_IMAGE_PA]
	str	x23, [x9, #BB_DISPLACEMENT]
	mov	x0, x23
	mov	x1, x23
	bl	relocate_image
	ret	x10
.size relocate_to_here, . - relocate_to_here

// Adds a displacement to every pointer that the linker could not fix.
//   In:  x0 = added to where each pointer lies, x1 = added to its value
//   Clobbers x2-x6. The build lets no relocation but R_AARCH64_RELATIVE pass.
.type relocate_image, %function
relocate_image:
	adr_l	x2, __rela_start
	adr_l	x3, __rela_end
1:	cmp	x2, x3
	b.hs	2f
	ldr	x4, [x2]		// r_offset
	ldr	x6, [x2, #16]		// r_addend: a second pass starts from it again
	add	x2, x2, #24
	add	x6, x6, x1
	str	x6, [x4, x0]
	b	1b
2:	ret
.size relocate_image, . - relocate_image

//   In:  x0 = start, x1 = end, both 16-byte aligned. Clobbers x0.
.type zero, %function
zero:
1:	cmp	x0, x1
	b.hs	2f
	stp	xzr, xzr, [x0], #16
	b	1b
2:	ret
.size zero, . - zero

// The identity map of the image, in static tables, page by page: text is
// read-only and executable, the rest writable and never executable. early.rs
// adds the UART once the device tree has named it.
//   In:  x22. Clobbers x0-x8, x10.
.type create_idmap, %function
create_idmap:
	mov	x10, x30
	adr_l	x0, swapper_pg_dir	// and, behind it, the identity map's root
	adr_l	x1, idmap_tables
	bl	zero
	mov	x4, x22
	mov_q	x2, PAGE_KERNEL_ROX
	adr_l	x3, _etext
	bl	identity_map
	mov_q	x2, PAGE_KERNEL
	adr_l	x3, _end
	bl	identity_map
	ret	x10
.size create_idmap, . - create_idmap

// Maps pages where they are, and links the tables that are missing.
//   In:  x1 = the next unused one of idmap_tables, x2 = descriptor without an
//        address, x3 = end, x4 = start
//   Out: x1, x4 = end. Clobbers x0, x5-x8.
.type identity_map, %function
identity_map:
	mov	x8, x30
1:	adr_l	x5, idmap_pg_dir	// from the root down
	mov	x6, #IDMAP_ROOT_SHIFT
2:	lsr	x7, x4, x6
	and	x7, x7, #INDEX_MASK
	add	x5, x5, x7, lsl #3
	cmp	x6, #GRANULE_SHIFT
	b.eq	4f
	ldr	x7, [x5]
	cbnz	x7, 3f
	orr	x7, x1, #DESC_TABLE
	str	x7, [x5]
	mov	x0, x1
	add	x1, x1, #(GRANULE_BYTES >> 12), lsl #12
	bl	zero
3:	bic	x5, x7, #DESC_TABLE
	sub	x6, x6, #INDEX_BITS
	b	2b

4:	orr	x7, x4, x2		// x5 = the page's place at level 3
	str	x7, [x5], #8
	add	x4, x4, #(GRANULE_BYTES >> 12), lsl #12
	cmp	x4, x3
	b.hs	5f
	ubfx	x7, x4, #GRANULE_SHIFT, #INDEX_BITS
	cbnz	x7, 4b
	b	1b			// another table translates the rest
5:	ret	x8
.size identity_map, . - identity_map

// Begins this boot's record, and keeps what the boot before left of its own. The
// first that is written of the image: no boot without RAM there.
//   In: x19. Clobbers x0-x7, x10, TPIDRRO_EL0.
.type open_black_box, %function
open_black_box:
	mov	x10, x30
	adr_l	x0, black_box
	msr	tpidrro_el0, x0		// where a tester finds it without symbols
	adr_l	x1, black_box_end
	bl	dcache_clean_inval_poc	// see the other call, below .bss

	adr_l	x0, black_box
	ldr	x5, [x0, #BB_NONCE]	// the tester's, or whatever is there
	adr_l	x1, black_box + BB_PREVIOUS
	add	x2, x0, #BB_KEPT_BYTES
	mov_q	x6, BLACK_BOX_MAGIC
	str	x6, [x1]
	ldr	x7, [x1]
	cmp	x6, x7
	b.ne	refuse_rom
	ldr	x7, [x0]
	cmp	x6, x7			// a record of any version?
1:	ldp	x3, x4, [x0]
	stp	xzr, xzr, [x0], #16
	csel	x3, x3, xzr, eq
	csel	x4, x4, xzr, eq
	stp	x3, x4, [x1], #16
	sub	x3, x2, x0		// CBNZ, not CMP: the flags are still needed
	cbnz	x3, 1b
	str	xzr, [x0]		// the console ring, empty

	adr_l	x0, black_box
	str	x5, [x0, #BB_NONCE]
	str	x5, [x0, #BB_BOOT_NONCE]
	lsr	x1, x19, #2
	strb	w1, [x0, #BB_ENTRY_EL]
	mrs	x1, cntfrq_el0
	str	x1, [x0, #BB_CNTFRQ]
	mrs	x1, cntvct_el0
	str	x1, [x0, #BB_STAGE_TICKS]
	mov_q	x1, (BLACK_BOX_SIZE << 32 | BLACK_BOX_VERSION)
	str	x1, [x0, #8]
	dmb	sy			// a reader sees the magic last
	str	x6, [x0]
	ret	x10
.size open_black_box, . - open_black_box

.type park, %function
park:
	wfi
	b	park
.size park, . - park

// The static tables. create_idmap zeroes both roots, and those of the identity
// map that it links; the early stage takes the rest one by one. At no level can
// the image need more than two: linker.ld sees to that.
.section .noinit.pgdir, "aw", %nobits
	.balign	GRANULE_BYTES
.global swapper_pg_dir
swapper_pg_dir:		.space	GRANULE_BYTES
.global idmap_pg_dir
idmap_pg_dir:		.space	GRANULE_BYTES
idmap_tables:		.space	2 * (IDMAP_LEVELS - 1) * GRANULE_BYTES
.global static_tables
static_tables:		.space	STATIC_TABLES * GRANULE_BYTES

// Each guard stays unmapped, and fills a page of the largest granule.
.section .noinit.stacks, "aw", %nobits
	.balign	65536
.global init_stack_guard
init_stack_guard:	.space	65536
.global init_stack_bottom
init_stack_bottom:	.space	65536
.global init_stack_top
init_stack_top:
.global exception_stack_guard
exception_stack_guard:	.space	65536
.global exception_stack_bottom
exception_stack_bottom:	.space	65536
.global exception_stack_top
exception_stack_top:

// Laid out in blackbox.rs; last in the image, on a boundary that a tester
// without symbols can scan for.
.section .noinit.blackbox, "aw", %nobits
	.balign	65536
.global black_box
black_box:	.space	BLACK_BOX_SIZE
black_box_end:
