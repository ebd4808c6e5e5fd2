//! topomem measured beside others.

pub(crate) mod linux;
