//! The model: a slow, obvious store.
