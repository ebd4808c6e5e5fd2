//! qemu/stress
#![no_std]
