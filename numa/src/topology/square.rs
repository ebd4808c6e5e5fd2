//! A value for each pair of nodes.

use topomem_percpu::NodeId;

/// The number of nodes that a topology describes without memory of the kernel's.
///
/// All nodes that there can be under loom.
pub(super) const BUILT_IN: usize = if cfg!(loom) { 4 } else { 8 };

/// A square of values, one for each pair of nodes: in place for few nodes, elsewhere for many.
#[derive(Debug)]
pub(super) struct Square<T: 'static> {
    near: [[T; BUILT_IN]; BUILT_IN],
    /// Row by row, each of `side` values; `None` if the values in place count.
    far: Option<&'static mut [T]>,
    side: usize,
}

impl<T: Copy> Square<T> {
    /// Creates a square of so many values equal to `value`.
    pub(super) const fn new(value: T) -> Square<T> {
        Square { near: [[value; BUILT_IN]; BUILT_IN], far: None, side: 0 }
    }

    /// Uses `place` from now on, the values of `side` nodes.
    pub(super) fn move_to(&mut self, place: &'static mut [T], side: usize) {
        (self.far, self.side) = (Some(place), side);
    }

    /// Returns the values from `node` to every node; none if there is no room for `node`.
    pub(super) fn row(&self, node: NodeId) -> &[T] {
        if let Some(far) = &self.far {
            let start = node.index() * self.side;
            return far.get(start..start + self.side).unwrap_or(&[]);
        }
        self.near.get(node.index()).map_or(&[], |row| row)
    }

    /// Returns the values from `node` to every node; none if there is no room for `node`.
    pub(super) fn row_mut(&mut self, node: NodeId) -> &mut [T] {
        if let Some(far) = &mut self.far {
            let start = node.index() * self.side;
            return far.get_mut(start..start + self.side).unwrap_or(&mut []);
        }
        self.near.get_mut(node.index()).map_or(&mut [], |row| row)
    }

    /// Returns the value of a pair, if there is room for it.
    pub(super) fn get(&self, from: NodeId, to: NodeId) -> Option<T> {
        self.row(from).get(to.index()).copied()
    }

    /// Sets the value of a pair, if there is room for it.
    pub(super) fn set(&mut self, from: NodeId, to: NodeId, value: T) {
        self.row_mut(from).get_mut(to.index()).into_iter().for_each(|place| *place = value);
    }

    /// Sets all values, in place.
    pub(super) fn fill(&mut self, value: T) {
        match &mut self.far {
            Some(far) => far.fill(value),
            None => self.near.as_flattened_mut().fill(value),
        }
    }
}
