// Shared by all assembly of the kernel.

// Address of a symbol within 4 GiB, relative to the PC: right wherever the
// image runs.
.macro adr_l, reg, symbol
	adrp	\reg, \symbol
	add	\reg, \reg, :lo12:\symbol
.endm
