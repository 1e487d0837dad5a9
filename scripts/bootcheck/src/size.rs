//! An amount of memory.

/// Bytes, written as a number with K, M, G or T. Without a letter it is MiB, as QEMU
/// reads `-m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "K" | "KIB" => 10,
            "" | "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err(format!("{text:?} is no size: write 512M or 4G")),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size: write 512M or 4G"))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
            if self.0.is_multiple_of(1 << shift) {
                return write!(formatter, "{}{unit}", self.0 >> shift);
            }
        }
        write!(formatter, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_as_qemu_means_them() {
        for (text, bytes, shown) in [
            ("128M", 128 << 20, "128M"),
            ("128", 128 << 20, "128M"),
            ("1024M", 1 << 30, "1G"),
            ("16g", 16 << 30, "16G"),
            ("64GiB", 64 << 30, "64G"),
            ("4K", 4096, "4K"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(
                (size.0, size.to_string().as_str()),
                (bytes, shown),
                "{text}"
            );
        }
        for text in ["", "M", "0", "-1M", "1.5G", "12Q", "99999999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
