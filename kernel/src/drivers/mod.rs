//! Devices. The UART is all a boot needs.

pub mod pl011;
