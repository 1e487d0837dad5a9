// Turns the MMU on. Called by head.S at the physical address, with the
// identity map in TTBR0 so that the next instruction is still there.
//   In:  x0 = MmuRegisters: MAIR, TCR, TTBR0, TTBR1, SCTLR
//   Clobbers x0-x6, x9.

.section .head.text, "ax"

.type enable_mmu, %function
enable_mmu:
	mov	x9, x30
	ldp	x1, x2, [x0]
	msr	mair_el1, x1
	msr	tcr_el1, x2
	ldp	x1, x2, [x0, #16]
	msr	ttbr0_el1, x1
	msr	ttbr1_el1, x2
	ldr	x5, [x0, #32]

	// All of the image that was written with the caches off: drop lines that
	// hold it as it was, or cached reads would see that. Includes the tables
	// that the walker is about to read.
	adr_l	x0, _text
	adr_l	x1, _end
	bl	dcache_inval_poc

	isb				// MAIR, TCR, TTBRs before a TLBI that depends on them
	tlbi	vmalle1			// what the loader or the last boot left
	dsb	nsh			// the TLBI is complete...
	isb				// ...before the first walk can start

	msr	sctlr_el1, x5
	isb				// translation on from here
	ic	iallu			// lines fetched while it was off
	dsb	nsh			// that is done...
	isb				// ...before the next fetch
	ret	x9
.size enable_mmu, . - enable_mmu
