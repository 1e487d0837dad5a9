// Macros shared by all assembly of the kernel, which is one unit: see boot/mod.rs.

// Address of a symbol within 4 GiB, relative to the PC: right wherever the
// image runs.
.macro adr_l, reg, symbol
	adrp	\reg, \symbol
	add	\reg, \reg, :lo12:\symbol
.endm

// A 64-bit constant without a literal pool: no memory is read.
.macro mov_q, reg, value
	movz	\reg, #((\value) & 0xffff)
	movk	\reg, #(((\value) >> 16) & 0xffff), lsl #16
	movk	\reg, #(((\value) >> 32) & 0xffff), lsl #32
	movk	\reg, #(((\value) >> 48) & 0xffff), lsl #48
.endm

// Sets the vectors of the exception level that the code runs at. The flags are
// those of CurrentEL compared with EL2's.
.macro set_vbar, reg
	b.hi	83f
	b.eq	82f
	msr	vbar_el1, \reg
	b	80f
82:	msr	vbar_el2, \reg
	b	80f
83:	msr	vbar_el3, \reg
80:	isb				// the vectors, before what may fault next
.endm

// Makes data little-endian at the exception level that the code runs at, as set_vbar
// knows it.
.macro little_endian, reg
	b.hi	73f
	b.eq	72f
	mrs	\reg, sctlr_el1
	bic	\reg, \reg, #SCTLR_EE
	msr	sctlr_el1, \reg
	b	70f
72:	mrs	\reg, sctlr_el2
	bic	\reg, \reg, #SCTLR_EE
	msr	sctlr_el2, \reg
	b	70f
73:	mrs	\reg, sctlr_el3
	bic	\reg, \reg, #SCTLR_EE
	msr	sctlr_el3, \reg
70:	isb				// before the next load or store
.endm

// Notes how far the boot has come. Clobbers x9, x10.
.macro enter_stage, number
	adr_l	x9, black_box
	mov	w10, #\number
	strb	w10, [x9, #BB_STAGE]
	mrs	x10, cntvct_el0
	str	x10, [x9, #(BB_STAGE_TICKS + 8 * \number)]
.endm
