//! Physical and virtual addresses as types of their own, so that they cannot be mixed up.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The value of the address.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address `bytes` further up, or `None` past the last address there is.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// The distance from `self` down to `lower` in bytes, or `None` if `lower` is higher.
            #[must_use]
            pub const fn checked_sub(self, lower: Self) -> Option<u64> {
                self.0.checked_sub(lower.0)
            }

            /// Whether the address is a multiple of `bytes`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, bytes: u64) -> bool {
                self.0 & bytes.wrapping_sub(1) == 0
            }

            /// The nearest multiple of `bytes`, a power of two, that is not above the address.
            #[must_use]
            pub const fn align_down(self, bytes: u64) -> Self {
                Self(self.0 & !bytes.wrapping_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#018x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#018x})"), self.0)
            }
        }
    };
}

address! {
    /// A physical address; in Arm's terms an *output address* of stage 1 translation (Arm ARM DDI 0487,
    /// chapter D8, "Address translation").
    PhysAddr
}

address! {
    /// A virtual address; in Arm's terms an *input address* of stage 1 translation (Arm ARM DDI 0487,
    /// chapter D8, "Address translation").
    VirtAddr
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn prints_all_sixteen_digits() {
        assert_eq!(
            format!("{}", PhysAddr::new(0x4020_0000)),
            "0x0000000040200000"
        );
        assert_eq!(
            format!("{:?}", VirtAddr::new(0xffff << 48)),
            "VirtAddr(0xffff000000000000)"
        );
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(PhysAddr::new(u64::MAX).checked_add(1), None);
        assert_eq!(PhysAddr::new(1).checked_add(1), Some(PhysAddr::new(2)));
        assert_eq!(VirtAddr::new(1).checked_sub(VirtAddr::new(2)), None);
        assert_eq!(VirtAddr::new(5).checked_sub(VirtAddr::new(2)), Some(3));
        assert_eq!(
            VirtAddr::new(0x1fff).align_down(0x1000),
            VirtAddr::new(0x1000)
        );
        assert!(VirtAddr::new(0x2000).is_aligned(0x2000));
        assert!(!VirtAddr::new(0x3000).is_aligned(0x2000));
    }
}
