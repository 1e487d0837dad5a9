#![no_main]

libfuzzer_sys::fuzz_target!(|blob: &[u8]| platform::fdt::try_hostile(blob));
