//! shootdown
#![no_std]
