//! The two 8259 interrupt controllers: moved off the exception vectors and masked for good.
//!
//! SeaBIOS leaves the timer line live, which would arrive as vector 8, the double fault.

use x86_64::instructions::port::Port;

use super::vector;

/// Remaps both controllers to [`vector::LEGACY`] and masks every line.
pub(crate) fn disable() {
    let mut command = [Port::<u8>::new(0x20), Port::<u8>::new(0xa0)];
    let mut data = [Port::<u8>::new(0x21), Port::<u8>::new(0xa1)];
    let bases = [vector::LEGACY.0, vector::LEGACY.0 + 8];
    // The second controller hangs on the first one's line 2.
    let wiring = [1 << 2, 2];
    for chip in 0..2 {
        // SAFETY: the documented initialisation sequence on the controllers' own ports, while
        // interrupts are off and nothing else uses them.
        unsafe {
            command[chip].write(0x11);
            data[chip].write(bases[chip]);
            data[chip].write(wiring[chip]);
            data[chip].write(0x01);
            data[chip].write(0xff);
        }
    }
}
