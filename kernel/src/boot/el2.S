// EL2 to EL1, and what happens to an image that was entered otherwise than the
// boot protocol says. Called by head.S.

.section .head.text, "ax"

// Leaves EL2 for EL1h with nothing trapped that this kernel uses, and returns to its
// caller there.
//   Clobbers x1-x3. No memory is touched.
.type el2_to_el1, %function
el2_to_el1:
	mov_q	x1, SCTLR_EL2_MMU_OFF
	msr	sctlr_el2, x1
	mov_q	x3, HCR_EL2_RW		// EL1 is AArch64, nothing is routed to EL2

	// Without FEAT_E2H0, E2H is RES1 whatever it reads as. Either the ID
	// register says so, or FAR_EL1 turns out to be another name of FAR_EL2.
	mrs	x1, S3_0_C0_C7_4	// ID_AA64MMFR4_EL1
	sbfx	x1, x1, #24, #4		// E2H0
	tbnz	x1, #63, 7f
	msr	hcr_el2, x3
	isb				// E2H decides what FAR_EL1 names
	mov	x1, #1
	msr	far_el1, x1
	isb				// one write before the other
	mov	x1, #2
	msr	far_el2, x1
	isb				// both before the read
	mrs	x1, far_el1
	cmp	x1, #2
	b.ne	8f
7:	orr	x3, x3, #(1 << 34)	// HCR_EL2.E2H, so that it reads as it acts
	msr	hcr_el2, x3
	isb				// what follows depends on it
8:
	// With E2H, SCTLR_EL1 names SCTLR_EL2, EL1's own has another name, and two
	// trap registers another layout.
	mov_q	x2, SCTLR_EL1_MMU_OFF
	tbnz	x3, #34, 1f
	msr	sctlr_el1, x2
	mov	x2, #3			// CNTHCTL_EL2: EL1PCTEN, EL1PCEN
	mov	x1, #0x33ff		// CPTR_EL2: RES1 bits; traps SVE and SME
	b	2f
1:	msr	S3_5_C1_C0_0, x2	// SCTLR_EL12
	mov	x2, #(3 << 10)
	mov	x1, #(3 << 20)		// CPTR_EL2.FPEN; the same traps
2:	msr	cnthctl_el2, x2
	msr	cptr_el2, x1
	msr	cntvoff_el2, xzr
	msr	vttbr_el2, xzr
	msr	hstr_el2, xzr
	mrs	x1, midr_el1
	msr	vpidr_el2, x1
	mrs	x1, mpidr_el1
	msr	vmpidr_el2, x1
	mrs	x1, mdcr_el2		// debug exceptions go to EL1; HPMN stays
	bic	x1, x1, #(0xf << 8)	// TDRA, TDOSA, TDA, TDE
	msr	mdcr_el2, x1

	// Traps of later architecture versions, whose reset values are unknown.
	mrs	x1, id_aa64mmfr0_el1
	ubfx	x1, x1, #56, #4		// FGT
	cbz	x1, 3f
	msr	S3_4_C1_C1_4, xzr	// HFGRTR_EL2
	msr	S3_4_C1_C1_5, xzr	// HFGWTR_EL2
	msr	S3_4_C1_C1_6, xzr	// HFGITR_EL2
	msr	S3_4_C3_C1_4, xzr	// HDFGRTR_EL2
	msr	S3_4_C3_C1_5, xzr	// HDFGWTR_EL2
3:	mrs	x1, id_aa64mmfr1_el1
	ubfx	x1, x1, #40, #4		// HCX
	cbz	x1, 4f
	msr	S3_4_C1_C2_2, xzr	// HCRX_EL2
4:
	adr_l	x1, vectors	// EL1's own, before EL1 runs
	tbnz	x3, #34, 5f
	msr	vbar_el1, x1
	b	6f
5:	msr	S3_5_C12_C0_0, x1	// VBAR_EL12
6:	mov	x1, #0x3c5		// DAIF masked, EL1h
	msr	spsr_el2, x1
	msr	elr_el2, x30
	eret				// also synchronizes all of the above
.size el2_to_el1, . - el2_to_el1

// QEMU with secure=on hands an ELF over at EL3 without firmware: there is no
// PSCI to switch off with. Say so, and leave by semihosting where it is offered.
.type refuse_el3, %function
refuse_el3:
	adr_l	x0, el3_message
	bl	early_puts
	adr_l	x1, park_vectors	// without semihosting HLT is undefined
	msr	vbar_el3, x1
	isb				// the vectors, before what may be undefined
	adr_l	x1, semihosting_exit
	mov	w0, #0x20		// SYS_EXIT_EXTENDED
	hlt	#0xf000
	b	park
.size refuse_el3, . - refuse_el3

// create_idmap and the linear map need the image where the boot protocol wants it.
.type refuse_base, %function
refuse_base:
	adr	x0, base_message	// not adrp: the base may not even be a page's
	bl	early_puts
	b	park
.size refuse_base, . - refuse_base

// QEMU's -bios puts an image into flash.
.type refuse_rom, %function
refuse_rom:
	adr_l	x0, rom_message
	bl	early_puts
	b	park
.size refuse_rom, . - refuse_rom

// What follows writes past the caches, and would read what they hold.
.type refuse_mmu_on, %function
refuse_mmu_on:
	adr_l	x0, mmu_on_message
	bl	early_puts
	b	park
.size refuse_mmu_on, . - refuse_mmu_on

// A CPU that is not the first, with no device tree. At EL3 it is one of many
// that QEMU's ELF loader starts, and the first one says what is wrong.
.type refuse_secondary, %function
refuse_secondary:
	cmp	x19, #(3 << 2)
	b.eq	park
	adr_l	x0, secondary_message
	bl	early_puts
	b	park
.size refuse_secondary, . - refuse_secondary

.balign 8
semihosting_exit:
	.quad	0x20026, 1		// ADP_Stopped_ApplicationExit, status 1
el3_message:
	.ascii	"boot: entered at EL3, which this kernel does not run at: start it at EL2 or EL1"
	.ascii	" (QEMU: -machine virt,secure=off, or give the Image instead of the ELF)\n"
	.asciz	"boot: FAIL\n"
base_message:
	.asciz	"boot: the image is not at a multiple of 2 MiB\nboot: FAIL\n"
rom_message:
	.ascii	"boot: the image is not in RAM: what is written there is lost"
	.asciz	" (QEMU: -kernel, not -bios)\nboot: FAIL\n"
mmu_on_message:
	.asciz	"boot: entered with the MMU on, and the boot protocol wants it off\nboot: FAIL\n"
secondary_message:
	.asciz	"boot: entered on a CPU other than 0, and x0 holds no device tree\nboot: FAIL\n"
.balign 4
