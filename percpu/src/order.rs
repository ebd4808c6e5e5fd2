//! Sizes of naturally aligned runs of frames.

/// A power-of-two run of 4 KiB frames: order `n` is `2^n` frames, aligned to its own size.
///
/// # Examples
///
/// ```
/// # use topomem_percpu::Order;
/// assert_eq!(Order::HUGE.bytes(), 2 << 20);
/// assert_eq!(Order::all().count(), 19);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Order(u8);

impl Order {
    /// One frame, 4 KiB.
    pub const FRAME: Order = Order(0);
    /// 512 frames, 2 MiB.
    pub const HUGE: Order = Order(9);
    /// 262 144 frames, 1 GiB: the largest order.
    pub const GIANT: Order = Order(18);

    /// Returns order `order`, or `None` above [`Order::GIANT`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Order;
    /// assert_eq!(Order::new(9), Some(Order::HUGE));
    /// assert_eq!(Order::new(19), None);
    /// ```
    #[must_use]
    pub const fn new(order: u8) -> Option<Order> {
        if order <= Order::GIANT.0 { Some(Order(order)) } else { None }
    }

    /// Returns the smallest order whose run holds `bytes` bytes, or `None` above 1 GiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Order;
    /// assert_eq!(Order::for_bytes(4097), Order::new(1));
    /// ```
    #[must_use]
    pub const fn for_bytes(bytes: u64) -> Option<Order> {
        Order::for_frames(bytes.div_ceil(4096))
    }

    /// Returns the smallest order whose run holds `frames` frames, or `None` above 1 GiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Order;
    /// assert_eq!(Order::for_frames(512), Some(Order::HUGE));
    /// ```
    #[must_use]
    pub const fn for_frames(frames: u64) -> Option<Order> {
        if frames > 1 << Order::GIANT.0 {
            return None;
        }
        Some(Order(frames.next_power_of_two().trailing_zeros() as u8))
    }

    /// Returns the exponent, 0 to 18.
    ///
    /// ```
    /// use topomem_percpu::Order;
    ///
    /// assert_eq!(Order::HUGE.get(), 9);
    /// ```
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the number of frames of a run.
    ///
    /// ```
    /// use topomem_percpu::Order;
    ///
    /// assert_eq!(Order::HUGE.frames(), 512);
    /// ```
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << self.0
    }

    /// Returns the number of bytes of a run.
    ///
    /// ```
    /// use topomem_percpu::Order;
    ///
    /// assert_eq!(Order::GIANT.bytes(), 1 << 30);
    /// ```
    #[must_use]
    pub const fn bytes(self) -> u64 {
        4096 << self.0
    }

    /// Returns all orders, from one frame to 1 GiB.
    ///
    /// ```
    /// use topomem_percpu::Order;
    ///
    /// assert_eq!(Order::all().map(Order::frames).max(), Some(1 << 18));
    /// ```
    pub fn all() -> impl DoubleEndedIterator<Item = Order> {
        (0..=Order::GIANT.0).map(Order)
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn for_frames_rounds_up() {
        assert_eq!(Order::for_frames(0), Some(Order::FRAME));
        assert_eq!(Order::for_frames(3), Order::new(2));
        assert_eq!(Order::for_frames(1 << 18), Some(Order::GIANT));
        assert_eq!(Order::for_frames((1 << 18) + 1), None);
        assert_eq!(Order::for_bytes(4097), Order::new(1));
    }
}
