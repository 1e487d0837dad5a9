// Exception vectors at EL1, for as long as Rust can run: the same table serves
// at the physical address, in the identity map and at KIMAGE_VADDR.
//
// Nothing of the interrupted code is trusted: no stack is touched before all
// registers are saved in a static frame, and the handler has its own stack.
// TPIDR_EL0, unused otherwise as there is no EL0, is the first scratch register.

.macro adr_l, reg, symbol
	adrp	\reg, \symbol
	add	\reg, \reg, :lo12:\symbol
.endm

// Offsets in ExceptionFrame, exception.rs.
.set FRAME_SP,		31 * 8
.set FRAME_ELR,		32 * 8
.set FRAME_SPSR,	33 * 8
.set FRAME_ESR,		34 * 8
.set FRAME_FAR,		35 * 8
.set FRAME_VECTOR,	36 * 8
.set FRAME_BUSY,	37 * 8

.section .text.vectors, "ax"

.balign 2048
.global vectors
.type vectors, %function
vectors:
	.set	vector, 0
	.rept	16
	.balign	128
	msr	tpidr_el0, x0
	adr_l	x0, exception_frame
	str	x1, [x0, #8]
	mov	x1, #vector
	b	exception_entry
	.set	vector, vector + 1
	.endr
.size vectors, . - vectors

// x0 = exception_frame, x1 = number of the vector; their values are saved.
.type exception_entry, %function
exception_entry:
	str	x2, [x0, #16]
	ldr	x2, [x0, #FRAME_BUSY]
	cbnz	x2, exception_nested
	mov	x2, #1
	str	x2, [x0, #FRAME_BUSY]
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
	str	x2, [x0]
	mov	x2, sp
	str	x2, [x0, #FRAME_SP]
	mrs	x2, elr_el1
	mrs	x3, spsr_el1
	stp	x2, x3, [x0, #FRAME_ELR]
	mrs	x2, esr_el1
	mrs	x3, far_el1
	stp	x2, x3, [x0, #FRAME_ESR]
	str	x1, [x0, #FRAME_VECTOR]

	adr_l	x2, exception_stack_top
	mov	sp, x2
	bl	handle_exception	// returns only if execution resumes

	adr_l	x0, exception_frame
	ldp	x2, x3, [x0, #FRAME_ELR]
	msr	elr_el1, x2
	msr	spsr_el1, x3
	ldr	x2, [x0, #FRAME_SP]
	mov	sp, x2
	str	xzr, [x0, #FRAME_BUSY]
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
.size exception_entry, . - exception_entry

// A fault while a fault is handled: the first one is what counts. Starts again
// on an empty stack with the registers that tell the second.
.type exception_nested, %function
exception_nested:
	add	x2, x2, #1
	str	x2, [x0, #FRAME_BUSY]
	cmp	x2, #2
	b.hi	1f			// the last resort faulted too
	mrs	x1, esr_el1
	mrs	x2, elr_el1
	mrs	x3, far_el1
	adr_l	x4, exception_stack_top
	mov	sp, x4
	bl	handle_nested_exception
1:	wfi
	b	1b
.size exception_nested, . - exception_nested
