//! Page tables for aarch64.
#![no_std]
#![forbid(unsafe_code)]
