//! Names made fit to read: functions without hashes, paths without what differs between machines.

/// A linker's name as the source has it, without the hash.
#[must_use]
pub fn demangle(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        Ok(name) => format!("{name:#}"),
        Err(_) => name.to_owned(),
    }
}

/// Whether a function is of Rust's own library, or of what the compiler adds.
#[must_use]
pub fn is_library_function(name: &str) -> bool {
    let name = plain(name);
    let own = [
        "core::",
        "alloc::",
        "std::",
        "compiler_builtins::",
        "__rustc::",
        "__rust_",
    ];
    // What the compiler calls without being asked, under the names of C, has no module.
    let called_by_compiler = [
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "bcmp",
        "rust_begin_unwind",
    ];
    own.iter().any(|start| name.starts_with(start)) || called_by_compiler.contains(&&*name)
}

/// Where the compiler's own libraries are, under some `library/`.
const OWN: [&str; 6] = [
    "core",
    "alloc",
    "std",
    "compiler-builtins",
    "portable-simd",
    "stdarch",
];

/// The part of a path from `library/` on, if it leads into Rust's own library.
fn in_own_library(path: &str) -> Option<&str> {
    OWN.iter().find_map(|part| {
        let at = path.find(&format!("/library/{part}/"))?;
        Some(&path[at + 1..])
    })
}

/// The part of a path from the crate's name on, if it is a crate from a registry.
fn in_registry(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/registry/src/")?;
    Some(rest.split_once('/')?.1)
}

/// Whether the compiler found a source file in Rust's own library, or in a crate from a registry.
#[must_use]
pub fn is_library_path(path: &str) -> bool {
    in_own_library(path).or(in_registry(path)).is_some()
}

/// A path without the directories that differ from machine to machine: relative to where the
/// compiler ran, `library/core/…` for Rust's own, `crate-1.2.3/src/…` for other crates.
#[must_use]
pub fn short_path(path: &str, directory: Option<&str>) -> String {
    if let Some(rest) = in_own_library(path).or(in_registry(path)) {
        return rest.to_owned();
    }
    let relative = directory.and_then(|directory| {
        let rest = path.strip_prefix(directory.trim_end_matches('/'))?;
        rest.strip_prefix('/')
    });
    relative.unwrap_or(path).to_owned()
}

/// A function's name without what differs between compilers that build the same source: generic
/// arguments, numbers of closures, the trait behind `<T as Trait>`.
#[must_use]
pub fn plain(name: &str) -> String {
    if let Some(rest) = name.strip_prefix('<')
        && let Some(end) = closing(rest)
    {
        let inside = match top_level_as(&rest[..end]) {
            Some(at) => &rest[..at],
            None => &rest[..end],
        };
        return plain(inside) + &plain_rest(&rest[end + 1..]);
    }
    plain_rest(name)
}

/// The same for what follows a leading `<…>`.
fn plain_rest(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find('<') {
        out.push_str(rest[..at].trim_end_matches("::"));
        match closing(&rest[at + 1..]) {
            Some(end) => rest = &rest[at + 1 + end + 1..],
            None => rest = "",
        }
    }
    out.push_str(rest);
    let parts = out.split("::").filter(|part| !part.is_empty());
    let parts: Vec<&str> = parts
        .map(|part| {
            if part.starts_with("{closure") || part == "{{closure}}" {
                "{closure}"
            } else {
                part
            }
        })
        .collect();
    let start = if out.starts_with("::") { "::" } else { "" };
    format!("{start}{}", parts.join("::"))
}

/// Where the `>` is that closes a `<` before `text`. Arrows do not count.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if before != '-' && depth == 0 => return Some(at),
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        before = letter;
    }
    None
}

/// Where ` as ` is that belongs to no inner `<…>`.
fn top_level_as(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' => depth -= 1,
            ' ' if depth == 0 && text[at..].starts_with(" as ") => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_go() {
        assert_eq!(
            demangle("_ZN6kernel6report10call_trace17hb57647d7eb8f8f25E.llvm.14700733396775693758"),
            "kernel::report::call_trace"
        );
        assert_eq!(demangle("primary_entry"), "primary_entry");
    }

    #[test]
    fn both_manglings_give_one_plain_name() {
        for (name, expected) in [
            (
                "early_mmu::engine::Engine<G,C,M>::plan",
                "early_mmu::engine::Engine::plan",
            ),
            (
                "<early_mmu::engine::Engine<A, B<C>, D>>::plan::<E>",
                "early_mmu::engine::Engine::plan",
            ),
            (
                "<kernel::report::InImage as core::fmt::Display>::fmt",
                "kernel::report::InImage::fmt",
            ),
            ("kernel::run::{{closure}}", "kernel::run::{closure}"),
            ("kernel::run::{closure#0}", "kernel::run::{closure}"),
            (
                "core::ops::FnOnce<fn() -> u8>::call",
                "core::ops::FnOnce::call",
            ),
            ("primary_entry", "primary_entry"),
            ("broken<", "broken"),
            ("", ""),
        ] {
            assert_eq!(plain(name), expected);
        }
    }

    #[test]
    fn paths_do_not_tell_whose_machine_it_was() {
        for (path, directory, expected) in [
            (
                "/build/k/kernel/src/a.rs",
                Some("/build/k"),
                "kernel/src/a.rs",
            ),
            (
                "/rustc/abc/library/core/src/fmt/mod.rs",
                Some("/rustc/abc"),
                "library/core/src/fmt/mod.rs",
            ),
            (
                "/usr/src/rustc-1.96/library/alloc/src/vec.rs",
                None,
                "library/alloc/src/vec.rs",
            ),
            (
                "/build/.cargo/registry/src/index-1/log-0.4.35/src/lib.rs",
                Some("/build"),
                "log-0.4.35/src/lib.rs",
            ),
            ("/elsewhere/a.rs", Some("/home"), "/elsewhere/a.rs"),
            ("arch/arm64/mm/mmu.c", None, "arch/arm64/mm/mmu.c"),
        ] {
            assert_eq!(short_path(path, directory), expected);
            let is_library = path.contains("/library/") || path.contains("/registry/");
            assert_eq!(is_library_path(path), is_library);
        }
    }
}
