// Exceptions where Rust cannot run: before the image is relocated, or at EL2 and
// EL3. Recorded already, printed on the default UART, and that is all. Called by
// vectors.S.

.section .text.vectors, "ax"

//   In: x0 = the frame, x4 = CurrentEL.
.global early_exception
.type early_exception, %function
early_exception:
	adr_l	x1, park_vectors
	cmp	x4, #(2 << 2)
	set_vbar x1
	mov	x11, x0
	adr_l	x0, early_exception_message
	bl	early_puts
	ldr	x1, [x11, #FRAME_ESR]
	bl	early_puthex
	ldr	x1, [x11, #FRAME_ELR]
	bl	early_puthex
	ldr	x1, [x11, #(FRAME_ESR + 8)]
	bl	early_puthex
	adr_l	x0, early_fail_message
	bl	early_puts
	b	park
.size early_exception, . - early_exception

// Prints the NUL-terminated text at x0, if a PL011 answers at the default
// address; polls are bounded. Clobbers x0, x2-x5.
.type early_puts, %function
early_puts:
	mov_q	x2, DEFAULT_UART_PA
	ldr	w3, [x2, #0xfe0]	// part number: the ID below is every PrimeCell's
	and	w3, w3, #0xff
	cmp	w3, #0x11
	b.ne	9f
	ldr	w3, [x2, #0xff0]	// PrimeCell ID, first and last byte
	cmp	w3, #0x0d
	b.ne	9f
	ldr	w3, [x2, #0xffc]
	cmp	w3, #0xb1
	b.ne	9f
	mov	w3, #0x301		// UARTCR: UARTEN, TXE, RXE
	str	w3, [x2, #0x30]
1:	ldrb	w4, [x0], #1
	cbz	w4, 9f
	mov	w5, #0x100000		// the FIFO drains long before this
2:	ldr	w3, [x2, #0x18]		// UARTFR
	tbz	w3, #5, 3f		// TXFF
	subs	w5, w5, #1
	b.ne	2b
	b	9f
3:	str	w4, [x2]
	b	1b
9:	ret
.size early_puts, . - early_puts

// Prints x1 as " 0x" and 16 digits. Clobbers x0-x9.
.type early_puthex, %function
early_puthex:
	mov	x9, x30
	mov	x8, x1
	adr_l	x0, hex_prefix
	bl	early_puts
	mov	w7, #60
1:	lsr	x6, x8, x7
	and	x6, x6, #0xf
	adr_l	x0, hex_digits
	add	x0, x0, x6, lsl #1	// each digit is a text of its own
	bl	early_puts
	subs	w7, w7, #4
	b.ge	1b
	ret	x9
.size early_puthex, . - early_puthex

early_exception_message:
	.asciz	"Unhandled exception where the kernel cannot handle any: ESR, ELR, FAR ="
early_fail_message:
	.asciz	"\nboot: FAIL\n"
hex_prefix:
	.asciz	" 0x"
hex_digits:
	.asciz	"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"
.balign 4
