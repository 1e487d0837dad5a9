//! Source lines and inlined functions, from DWARF.

use std::sync::Mutex;

use addr2line::Context;
use gimli::{LittleEndian, Reader};

use super::{Piece, names};

/// One call as the source has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The function, demangled.
    pub function: Option<String>,
    /// The source file, as short as it still says which one it is.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether this is Rust's own library or somebody else's crate: the mistake is rarely there.
    pub is_library: bool,
}

impl Call {
    /// `file:line`.
    #[must_use]
    pub fn location(&self) -> Option<String> {
        Some(format!("{}:{}", self.file.as_deref()?, self.line?))
    }
}

/// The line tables of an ELF.
pub(super) struct Lines {
    // The lock makes it one for all threads; DWARF's tables are read into it as they are needed.
    context: Option<Mutex<Context<Piece>>>,
}

impl Lines {
    /// Takes the debug sections that `section` finds.
    pub fn new(section: impl Fn(&str) -> Option<Piece>) -> Self {
        let empty = || Piece::new(std::sync::Arc::from([]), LittleEndian);
        let load =
            |id: gimli::SectionId| Ok::<_, gimli::Error>(section(id.name()).unwrap_or_else(empty));
        let dwarf = gimli::Dwarf::load(load);
        let context = dwarf.and_then(Context::from_dwarf).ok();
        Self {
            context: context.map(Mutex::new),
        }
    }

    /// The calls at an address as linked, innermost first; none where the ELF does not say.
    pub fn find(&self, address: u64) -> Vec<Call> {
        let Some(context) = &self.context else {
            return Vec::new();
        };
        // A panic of another thread under the lock leaves the tables as good as they were.
        let context = context
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = directory(&context, address);
        let mut calls = Vec::new();
        let Ok(mut frames) = context.find_frames(address).skip_all_loads() else {
            return calls;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref();
            let name = name.and_then(|name| name.raw_name().ok());
            let function = name.map(|name| names::demangle(&name));
            let path = frame.location.as_ref().and_then(|location| location.file);
            let line = frame.location.as_ref().and_then(|location| location.line);
            calls.push(Call {
                is_library: path.is_some_and(names::is_library_path)
                    || function.as_deref().is_some_and(names::is_library_function),
                file: path.map(|path| names::short_path(path, directory.as_deref())),
                // Line 0 is the compiler's way to say that no line is to blame.
                line: line.filter(|line| *line > 0),
                function,
            });
        }
        calls
    }
}

/// Where the compiler of the code at an address ran.
fn directory(context: &Context<Piece>, address: u64) -> Option<String> {
    let unit = context.find_dwarf_and_unit(address).skip_all_loads()?;
    let directory = unit.comp_dir.as_ref()?.to_string_lossy().ok()?;
    Some(directory.into_owned())
}
