// UEFI enters here, and leaves here for head.S. Called with x0 = image handle,
// x1 = system table (UEFI Specification 2.3.6): EL2 or EL1, MMU and caches on,
// memory mapped one to one, the image at any page, the firmware's stack, vectors
// and interrupts.

.section .head.text, "ax"

.type efi_entry, %function
efi_entry:
	stp	x29, x30, [sp, #-64]!
	mov	x29, sp
	stp	x19, x20, [sp, #16]
	stp	x21, x22, [sp, #32]
	str	x23, [sp, #48]
	mov	x20, x0
	mov	x21, x1
	mrs	x19, CurrentEL

	// Stage `entry`: this, too, is watched from outside.
	bl	open_black_box
	adr	x22, _text
	bl	relocate_to_here

	mov	x0, x20
	mov	x1, x21
	bl	efi_main		// x0 = where to run, x1 = device tree
	cbnz	x0, efi_leave

	// Or x0 = 0, x1 = the status that the firmware gets back.
	adr_l	x9, black_box
	str	xzr, [x9]		// whatever runs next, it is not this kernel
	mov	x0, x1
	ldp	x19, x20, [sp, #16]
	ldp	x21, x22, [sp, #32]
	ldr	x23, [sp, #48]
	ldp	x29, x30, [sp], #64
	ret
.size efi_entry, . - efi_entry

// Boot services are gone. Copies what the file holds of the image to x0, and
// enters it there with the device tree, as the boot protocol wants it.
.type efi_leave, %function
efi_leave:
	msr	daifset, #0xf		// the firmware's vectors may be, too
	mov	x20, x0
	mov	x21, x1
	// Found first by a search, it would be taken for the kernel's.
	adr_l	x9, black_box
	str	xzr, [x9]

	adr	x3, _text
	adr_l	x4, _edata		// a multiple of 16 bytes away
	mov	x1, x20
1:	ldp	x5, x6, [x3], #16
	stp	x5, x6, [x1], #16
	cmp	x3, x4
	b.lo	1b

	// With the MMU off instructions are fetched and data is read past the
	// caches: the copy, and what still runs here, must be in memory by then.
	mov	x0, x20
	bl	dcache_clean_poc	// to x1, the copy's end
	adr	x0, efi_mmu_off
	adr	x1, efi_mmu_off_end
	bl	dcache_clean_poc
	ic	iallu			// lines of what was there before the copy
	dsb	nsh			// that is done...
	isb				// ...before the next fetch

efi_mmu_off:
	mrs	x1, CurrentEL
	cmp	x1, #(2 << 2)
	b.eq	2f
	mrs	x1, sctlr_el1
	bic	x1, x1, #SCTLR_M
	bic	x1, x1, #SCTLR_C
	msr	sctlr_el1, x1
	b	3f
2:	mrs	x1, sctlr_el2
	bic	x1, x1, #SCTLR_M
	bic	x1, x1, #SCTLR_C
	msr	sctlr_el2, x1
3:	isb				// MMU and data cache off, before the jump
	mov	x0, x21
	mov	x1, xzr
	mov	x2, xzr
	mov	x3, xzr
	br	x20
efi_mmu_off_end:
.size efi_leave, . - efi_leave
