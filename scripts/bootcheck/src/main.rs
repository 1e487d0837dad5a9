//! Boots one aarch64 image under QEMU and says what happened.
fn main() {}
