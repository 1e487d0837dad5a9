//! Tells the linker how to lay out the kernel; nothing else.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // On the host only the library part is built, for its tests.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let script = manifest_dir.join("../linker.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    let args = [
        format!("-T{}", script.display()),
        // A static PIE without an interpreter. head.S applies the RELA table,
        // so addends stay in it (--no-apply-dynamic-relocs), and the second
        // pass writes rodata, so the linker need not split it (norelro).
        "-pie".into(),
        "--no-dynamic-linker".into(),
        "-znotext".into(),
        "-znorelro".into(),
        "--no-apply-dynamic-relocs".into(),
        "--build-id=none".into(),
        "--hash-style=sysv".into(),
        // Pages of the largest granule, as the linker script has it.
        "-zmax-page-size=65536".into(),
        "--orphan-handling=error".into(),
        // Cortex-A53 computes some ADRPs at the end of a page wrongly; this
        // target's specification does not ask for it.
        "--fix-cortex-a53-843419".into(),
    ];
    for arg in args {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
