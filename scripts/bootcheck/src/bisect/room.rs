//! A full disk, which fails checkouts, builds and boots that are in order: it stops a bisection, and
//! never is a property of a commit.

use std::path::Path;

use anyhow::bail;

/// Less room than this explains any failure of a build.
const ENOUGH: u64 = 32 << 20;

/// How the C library tells of a full disk and of a used-up quota: in the words of tools, and of ours.
const COMPLAINTS: &[&str] = &["No space left on device", "Disk quota exceeded"];

/// Whether this is a complaint about a full disk.
#[must_use]
pub fn is_lacking(said: &str) -> bool {
    COMPLAINTS.iter().any(|complaint| said.contains(complaint))
}

/// Looks whether a build that failed and `said` this in `directory` had room. Its words may be missing: the
/// file that takes them can be on the same disk.
///
/// # Errors
/// It had none.
pub fn check(directory: &Path, said: &str) -> anyhow::Result<()> {
    let free = rustix::fs::statvfs(directory).map(|disk| disk.f_bavail * disk.f_frsize);
    if let Some(complaint) = lack(said, free.unwrap_or(u64::MAX)) {
        bail!("the build failed in {}: {complaint}", directory.display());
    }
    Ok(())
}

/// What to say of a build that failed with this output and this many bytes free.
fn lack(said: &str, free: u64) -> Option<String> {
    match said.lines().find(|line| is_lacking(line)) {
        Some(line) => Some(crate::escape::escape(line.trim().as_bytes())),
        None if free < ENOUGH => Some(format!("{} ({} KiB free)", COMPLAINTS[0], free >> 10)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_by_its_words_or_its_size() {
        let told = |said, free| lack(said, free).unwrap_or_default();
        let words = "cc a.c\nld: a.o: No space left on device\nmake: *** Error 1\n";
        assert_eq!(told(words, u64::MAX), "ld: a.o: No space left on device");
        assert!(told("cat: Disk quota exceeded", u64::MAX).contains("quota"));
        assert!(is_lacking(&told("a.c:1: error: boo", ENOUGH - 1)));
        assert_eq!(lack("a.c:1: error: boo", ENOUGH), None);
    }
}
