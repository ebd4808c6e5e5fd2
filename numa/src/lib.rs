//! numa
#![no_std]
