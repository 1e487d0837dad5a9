// Exception vectors: one table for each exception level, from the first
// instruction to the last, at the physical address, in the identity map and at
// KIMAGE_VADDR. Everything is relative to the PC.
//
// Nothing of the interrupted code is trusted: no stack is touched before all
// registers are in the black box, and what follows has a stack of its own.
// TPIDR_EL0 and TPIDR_EL1, unused otherwise, are the first scratch registers.

.section .text.vectors, "ax"

.balign 2048
.global vectors
.type vectors, %function
vectors:
	.set	vector, 0
	.rept	16
	.balign	128
	msr	tpidr_el0, x0
	msr	tpidr_el1, x1
	mov	x1, #vector
	b	record_exception
	.set	vector, vector + 1
	.endr
.size vectors, . - vectors

// For a fault while the last resort is tried: nothing is left to try.
.balign 2048
.global park_vectors
.type park_vectors, %function
park_vectors:
	.rept	16
	.balign	128
	b	.
	.endr
.size park_vectors, . - park_vectors

// Reads a register of the exception level in \el_times_4 (CurrentEL).
// The flags are those of `cmp \el_times_4, #8`.
.macro mrs_el, reg, name
	b.hi	93f
	b.eq	92f
	mrs	\reg, \name\()_el1
	b	90f
92:	mrs	\reg, \name\()_el2
	b	90f
93:	mrs	\reg, \name\()_el3
90:
.endm

// In: x1 = number of the vector; x0 and x1 are saved.
.type record_exception, %function
record_exception:
	adr_l	x0, black_box + FRAME
	ldr	x0, [x0, #FRAME_STATE]
	cbnz	x0, record_nested	// nothing of the first one is overwritten
	adr_l	x0, black_box + FRAME
	str	x2, [x0, #16]
	mov	x2, #1			// being written
	str	x2, [x0, #FRAME_STATE]
	str	x3, [x0, #24]
	stp	x4, x5, [x0, #32]
	stp	x6, x7, [x0, #48]
	stp	x8, x9, [x0, #64]
	stp	x10, x11, [x0, #80]
	stp	x12, x13, [x0, #96]
	stp	x14, x15, [x0, #112]
	stp	x16, x17, [x0, #128]
	stp	x18, x19, [x0, #144]
	stp	x20, x21, [x0, #160]
	stp	x22, x23, [x0, #176]
	stp	x24, x25, [x0, #192]
	stp	x26, x27, [x0, #208]
	stp	x28, x29, [x0, #224]
	str	x30, [x0, #240]
	mrs	x2, tpidr_el0
	mrs	x3, tpidr_el1
	stp	x2, x3, [x0]
	mov	x2, sp
	str	x2, [x0, #FRAME_SP]
	str	x1, [x0, #FRAME_VECTOR]
	mrs	x4, CurrentEL
	lsr	x2, x4, #2
	str	x2, [x0, #FRAME_EL]
	cmp	x4, #8
	mrs_el	x2, elr
	mrs_el	x3, spsr
	stp	x2, x3, [x0, #FRAME_ELR]
	mrs_el	x2, esr
	mrs_el	x3, far
	stp	x2, x3, [x0, #FRAME_ESR]
	mov	x2, #2			// complete
	str	x2, [x0, #FRAME_STATE]

	// Rust can take over at EL1, once the image has been relocated.
	b.hs	early_exception
	adr_l	x2, black_box
	ldrb	w2, [x2, #BB_STAGE]
	cmp	w2, #STAGE_FDT
	b.lo	early_exception
	adr_l	x2, exception_stack_top
	mov	sp, x2
	bl	handle_exception	// returns only if execution resumes

	adr_l	x0, black_box + FRAME
	ldp	x2, x3, [x0, #FRAME_ELR]
	msr	elr_el1, x2
	msr	spsr_el1, x3
	ldr	x2, [x0, #FRAME_SP]
	mov	sp, x2
	str	xzr, [x0, #FRAME_STATE]	// it was expected: the record is free again
	ldp	x2, x3, [x0, #16]
	ldp	x4, x5, [x0, #32]
	ldp	x6, x7, [x0, #48]
	ldp	x8, x9, [x0, #64]
	ldp	x10, x11, [x0, #80]
	ldp	x12, x13, [x0, #96]
	ldp	x14, x15, [x0, #112]
	ldp	x16, x17, [x0, #128]
	ldp	x18, x19, [x0, #144]
	ldp	x20, x21, [x0, #160]
	ldp	x22, x23, [x0, #176]
	ldp	x24, x25, [x0, #192]
	ldp	x26, x27, [x0, #208]
	ldp	x28, x29, [x0, #224]
	ldr	x30, [x0, #240]
	ldp	x0, x1, [x0]
	eret
.size record_exception, . - record_exception

// A fault while a fault was handled. The first one is what counts; of the
// others the first is noted, and each gets a last resort of its own, on an empty
// stack: to report, then only to switch off, then nothing.
.type record_nested, %function
record_nested:
	adr_l	x0, black_box + BB_NESTED
	ldr	x1, [x0]
	add	x1, x1, #1
	str	x1, [x0]
	mrs	x4, CurrentEL
	cmp	x4, #8
	mrs_el	x5, esr
	mrs_el	x6, elr
	mrs_el	x7, far
	mov	x3, sp
	cmp	x1, #2
	b.hi	3f			// not even the way out works
	b.eq	1f
	stp	x5, x6, [x0, #8]
	stp	x7, x3, [x0, #24]
1:	cmp	x4, #8
	b.hs	3f			// Rust cannot run at EL2 or EL3
	adr_l	x2, black_box
	ldrb	w2, [x2, #BB_STAGE]
	cmp	w2, #STAGE_FDT
	b.lo	3f
	adr_l	x2, exception_stack_top
	mov	sp, x2
	cmp	x1, #2
	b.eq	2f
	adr_l	x0, black_box + FRAME
	mov	x1, x5
	mov	x2, x6
	mov	x3, x7
	bl	handle_nested_exception
2:	bl	handle_last_resort
3:	b	3b
.size record_nested, . - record_nested
