//! Devices: the UART, and what ends a boot where there is no firmware to ask.

pub mod bcm2835_pm;
pub mod pl011;
