//! What the firmware told us, as plain data: device tree, memory, command line.
//!
//! Nothing here touches hardware, allocates, or knows where it runs, so the
//! early stage uses it with the MMU off and the host tests it as it is. All
//! addresses are physical and survive the jump to the virtual address.

#![no_std]
#![forbid(unsafe_code)]

pub mod cmdline;
pub mod efi;
pub mod fdt;
pub mod memblock;
pub mod range;
pub mod xorshift;

#[cfg(any(test, feature = "fuzz"))]
extern crate std;
