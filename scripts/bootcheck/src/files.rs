//! Files that appear whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// Writes a file in one step: no reader ever sees half of it, and a full disk leaves the old one.
///
/// # Errors
/// What the operating system said, with the path.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_device(path) {
        return fs::write(path, bytes);
    }
    // What a symbolic link leads to is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file = tempfile::Builder::new()
        .prefix(".bootcheck-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory_of(path))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Sees whether a file could be written, without doing so.
///
/// # Errors
/// What the operating system said, with the path.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(cannot);
    }
    if !is_device(path) {
        tempfile::tempfile_in(directory_of(path)).with_context(cannot)?;
    }
    Ok(())
}

/// A device or a pipe cannot be replaced, only written to.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| !data.is_file())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The same, but leaves a file alone that holds these bytes already, so that its time stamp tells
/// when its content changed.
///
/// # Errors
/// What the operating system said, with the path.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    match fs::read(path) {
        Ok(old) if old == bytes => Ok(()),
        _ => write_atomically(path, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_one() {
        let directory = tempfile::tempdir().unwrap();
        let [link, target] = ["link", "target"].map(|name| directory.path().join(name));
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(link.is_symlink());
    }

    #[test]
    fn whether_a_file_could_be_written_is_seen_without_doing_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        check(&path).unwrap();
        assert!(!path.exists());
        check(Path::new("/dev/null")).unwrap();
        for bad in [directory.path(), &path.join("x")] {
            let error = check(bad).unwrap_err().to_string();
            assert_eq!(error, format!("cannot write {}", bad.display()));
        }
    }

    #[test]
    fn an_unchanged_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Image");
        let inode = || fs::metadata(&path).unwrap().ino();
        write_if_changed(&path, b"1").unwrap();
        let first = inode();
        write_if_changed(&path, b"1").unwrap();
        assert_eq!(inode(), first);
        write_if_changed(&path, b"2").unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn the_error_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/x");
        let error = write_atomically(&path, b"").unwrap_err();
        assert!(error.to_string().contains("missing/x"));
    }
}
