//! The processes that the suite asks.

pub(crate) use tests::boundary::{Kind, Stand};
