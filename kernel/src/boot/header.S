// What loaders read, first in the image: the Image header of Linux for boot
// loaders (Documentation/arch/arm64/booting.rst), and the PE/COFF header of an
// application for UEFI (Microsoft PE Format; UEFI Specification 2.1.1). The first
// instruction is the "MZ" that PE begins with.

.section .head.text, "ax"

image_header:
	ccmp	x18, #0, #0xd, pl	// changes flags only, and spells "MZ"
	b	primary_entry
	.quad	0			// text_offset: at the base itself
	.quad	_image_size		// with what the file does not hold
	.quad	IMAGE_FLAGS		// little-endian, granule, anywhere in PA
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	pe_header - image_header
	.asciz	"early_mmu mini-kernel"	// tells this image from other Images

// One section for each segment of linker.ld, at the same offset in file and
// memory, each either writable or executable. No relocations for the firmware:
// efi/entry.S applies the kernel's own.
	.balign	8
pe_header:
	.ascii	"PE\0\0"
	.short	0xaa64			// for arm64
	.short	3			// sections
	.long	0, 0, 0			// no time stamp, no symbols
	.short	pe_sections - pe_optional
	.short	0x0206			// executable; line numbers, debug stripped
pe_optional:
	.short	0x020b			// PE32+
	.byte	0, 0			// linker
	.long	_pe_text_size
	.long	_pe_initialized_size
	.long	0			// all that is not in the file is in .data
	.long	efi_entry - image_header
	.long	_pe_text		// where code begins
	.quad	0			// at any base
	.long	4096			// memory alignment: a page of UEFI's
	.long	512			// file alignment
	.short	0, 0, 0, 0, 0, 0	// versions of system, image, subsystem
	.long	0
	.long	_image_size
	.long	_pe_text		// headers
	.long	0			// no checksum
	.short	10			// an EFI application
	.short	0x0100			// NX_COMPAT: W^X holds, see above
	.quad	0, 0, 0, 0		// stack and heap are the firmware's
	.long	0
	.long	6			// directories, all empty
	.quad	0, 0, 0, 0, 0, 0
pe_sections:
	.ascii	".text\0\0\0"
	.long	_pe_text_size, _pe_text, _pe_text_size, _pe_text, 0, 0, 0
	.long	0x60000020		// code, executable, readable
	.ascii	".rodata\0"
	.long	_pe_rodata_size, _pe_rodata, _pe_rodata_size, _pe_rodata, 0, 0, 0
	.long	0xc0000040		// data, readable, writable: relocation writes it
	.ascii	".data\0\0\0"
	.long	_pe_data_size, _pe_data, _pe_data_file_size, _pe_data, 0, 0, 0
	.long	0xc0000040
	.balign	4096			// _pe_text
