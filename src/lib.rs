//! topomem
#![no_std]
